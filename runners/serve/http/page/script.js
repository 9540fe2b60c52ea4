// The page of a service: sends images to POST /predict and shows the answers.
// Text from files and from the service is always inserted as text.

import { classColor, css, draw, outline, scoreText } from "./drawing.js";

const $ = (selector) => document.querySelector(selector);
const MAX_UPSCALE = 6;

const state = {
  items: [], // the images, in the order in which they were added
  current: null, // the one that is shown
  active: null, // the highlighted detection
  threshold: 0,
  hiddenClasses: new Set(),
  token: "", // in memory only
  needsToken: false,
  isSending: false,
  skeleton: [],
};

// ---------------------------------------------------------------- requests

const REASONS = {
  401: "The token is missing or wrong",
  413: "The image is too large for this service",
  415: "This kind of file is not supported",
  422: "The image cannot be used",
  429: "The service is busy",
  503: "The service is not available",
};

class Refusal extends Error {
  constructor(status, title, message) {
    super(message);
    Object.assign(this, { status, title, canRetry: [0, 429, 503].includes(status) || status >= 500 });
  }
}

/** Send a request; throws a Refusal that has a title and a sentence. */
async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (state.token) headers.Authorization = `Bearer ${state.token}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    throw new Refusal(
      0,
      "No answer",
      "The service is not running, or it closed the connection because the image is too large.",
    );
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  const wait = response.headers.get("Retry-After");
  const text = typeof body.error === "string" ? body.error : `HTTP status ${response.status}`;
  const title = REASONS[response.status] ?? "The service could not answer";
  throw new Refusal(response.status, title, wait ? `${text} (wait ${wait} s)` : text);
}

async function loadInfo() {
  try {
    const info = await (await ask("info")).json();
    const model = info.model ?? {};
    $("#model").textContent = model.tag ?? model.name ?? "unknown";
    $("#device").textContent = info.device ?? "unknown";
    state.skeleton = info.skeleton ?? [];
    document.title = `d2run: ${$("#model").textContent}`;
  } catch (error) {
    if (error.status === 401) askForToken();
    else say(`${error.title}: ${error.message}`);
  }
}

function askForToken() {
  state.needsToken = true;
  $("#access").hidden = false;
  showCurl();
}

/** Send the images that wait, one after the other. */
async function send() {
  if (state.isSending) return;
  state.isSending = true;
  document.body.classList.add("busy");
  for (let item; (item = state.items.find((one) => one.status === "waiting")); ) {
    item.status = "running";
    showStrip();
    say(`Detecting in ${item.name} …`);
    try {
      await detect(item);
    } catch (error) {
      item.status = "failed";
      item.error = error;
      if (error.status === 401) {
        askForToken();
        $("#token").focus();
      }
    }
    showStrip();
    if (item === state.current) await show(item);
  }
  document.body.classList.remove("busy");
  state.isSending = false;
  if (state.current?.status === "done") announce();
}

async function detect(item) {
  const started = performance.now();
  const request = { method: "POST", body: item.file };
  // without a type, the browser would send none; the service looks at the bytes
  request.headers = { "Content-Type": item.file.type || "application/octet-stream" };
  const line = JSON.parse((await (await ask("predict", request)).text()) || "{}");
  item.seconds = (performance.now() - started) / 1000;
  item.size = line.width ? [line.width, line.height] : null;
  item.isDropped = line.dropped === true || !line.instances;
  item.detections = (line.instances ?? [])
    .map((one) => ({
      box: one.box,
      score: one.score,
      className: String(one.class_name),
      color: classColor(one.class_id),
      mask: one.mask && outline(one.mask),
      keypoints: one.keypoints,
      trackId: one.track_id ?? -1,
    }))
    .sort((a, b) => b.score - a.score);
  // label maps are drawn by the service
  item.drawing = "sem_seg" in line || "panoptic_seg" in line ? await (await ask("overlay", request)).blob() : null;
  item.status = "done";
}

// ---------------------------------------------------------------- images

function add(files) {
  const added = [...files].map((file) => ({ file, name: file.name || "image", status: "waiting" }));
  if (!added.length) return;
  state.items.push(...added);
  document.body.classList.add("has-images");
  showStrip();
  show(added[0]);
  send();
}

/** Decode an image as the service sees it: rotated by EXIF, unless the answer says otherwise. */
async function decode(blob, size) {
  const differs = (bitmap) => size && (bitmap.width !== size[0] || bitmap.height !== size[1]);
  try {
    const bitmap = await createImageBitmap(blob);
    return differs(bitmap) ? await createImageBitmap(blob, { imageOrientation: "none" }) : bitmap;
  } catch {
    return null;
  }
}

async function show(item) {
  state.current = item;
  state.active = null;
  markCurrent();
  showCurl();
  $("#error").hidden = item.status !== "failed";
  $("#result").hidden = item.status !== "done" || !item.size;
  if (item.status === "failed") {
    $("#error h2").textContent = item.error.title;
    $("#error p").textContent = `${item.name}: ${item.error.message}`;
    $("#error button").hidden = !item.error.canRetry;
    say("");
  }
  if (item.status !== "done") return;
  const bitmap = await decode(item.drawing ?? item.file, item.drawing ? null : item.size);
  if (state.current !== item) return;
  state.bitmap?.close();
  state.bitmap = bitmap;
  const note = item.drawing
    ? "This model returns label maps, so the service has drawn the image; the threshold changes the table."
    : "The browser cannot show this image format; the detections are drawn without the image.";
  $("#note").textContent = note;
  $("#note").hidden = Boolean(bitmap && !item.drawing);
  showClasses(item);
  showTable(item);
  refresh();
  announce();
}

function markCurrent() {
  for (const item of state.items) {
    if (item === state.current) item.button?.setAttribute("aria-current", "true");
    else item.button?.removeAttribute("aria-current");
  }
}

function showStrip() {
  $("#strip").hidden = state.items.length < 2;
  for (const item of state.items) {
    if (!item.button) {
      item.button = document.createElement("button");
      item.button.type = "button";
      const thumbnail = document.createElement("canvas");
      const name = document.createElement("span");
      name.textContent = item.button.title = item.name;
      item.button.append(thumbnail, name, document.createElement("small"));
      item.button.addEventListener("click", () => show(item));
      const entry = document.createElement("li");
      entry.append(item.button);
      $("#strip").append(entry);
      createImageBitmap(item.file, { resizeHeight: 128, resizeQuality: "medium" })
        .then((bitmap) => {
          [thumbnail.width, thumbnail.height] = [bitmap.width, bitmap.height];
          thumbnail.getContext("2d").drawImage(bitmap, 0, 0);
          bitmap.close();
        })
        .catch(() => {}); // a file that is no image has no thumbnail
    }
    const n = item.detections?.length;
    const done = item.isDropped ? "dropped" : `${n} found`;
    item.button.classList.toggle("failed", item.status === "failed");
    item.button.querySelector("small").textContent =
      { waiting: "waiting", running: "running", failed: "failed", done }[item.status];
  }
}

// ---------------------------------------------------------------- detections

const isShown = (one) => (one.score ?? 0) >= state.threshold && !state.hiddenClasses.has(one.className);

function swatch(color) {
  const element = document.createElement("span");
  element.className = "swatch";
  element.style.backgroundColor = css(color);
  return element;
}

function showClasses(item) {
  const counts = new Map();
  for (const one of item.detections) {
    const known = counts.get(one.className) ?? { color: one.color, n: 0 };
    counts.set(one.className, { ...known, n: known.n + 1 });
  }
  $("fieldset").hidden = !counts.size;
  $("#classes").replaceChildren(
    ...[...counts].sort().map(([name, { color, n }]) => {
      const box = document.createElement("input");
      box.type = "checkbox";
      box.checked = !state.hiddenClasses.has(name);
      box.addEventListener("change", () => {
        if (box.checked) state.hiddenClasses.delete(name);
        else state.hiddenClasses.add(name);
        refresh();
        announce();
      });
      const count = document.createElement("small");
      count.textContent = n;
      const label = document.createElement("label");
      label.append(box, swatch(color), name, count);
      return label;
    }),
  );
}

function showTable(item) {
  const rows = item.detections.map((one) => {
    one.row = document.createElement("tr");
    const track = one.trackId >= 0 ? `#${one.trackId} ` : "";
    const [x1, y1, x2, y2] = one.box;
    const size = one.box.includes(null) ? "–" : `${Math.round(x2 - x1)} × ${Math.round(y2 - y1)}`;
    for (const text of [track + one.className, scoreText(one.score), size]) {
      one.row.insertCell().textContent = text;
    }
    one.row.cells[0].prepend(swatch(one.color));
    one.row.addEventListener("mouseenter", () => highlight(one));
    one.row.addEventListener("mouseleave", () => highlight(null));
    one.row.addEventListener("focus", () => highlight(one));
    one.row.addEventListener("blur", () => highlight(null));
    return one.row;
  });
  $("tbody").replaceChildren(...rows);
}

/** Apply the threshold and the classes to the table and the drawing. */
function refresh() {
  const shown = visible();
  for (const one of state.current.detections) {
    one.row.hidden = !isShown(one);
    one.row.tabIndex = one === shown[0] ? 0 : -1;
  }
  $("output").textContent = state.threshold.toFixed(2);
  const count = `${shown.length} of ${state.current.detections.length} detections shown`;
  $("#threshold").setAttribute("aria-valuetext", `${state.threshold.toFixed(2)}, ${count}`);
  $("#canvas canvas").setAttribute("aria-label", `${state.current.name}: ${count}`);
  redraw();
}

const visible = () => state.current.detections.filter(isShown);

function highlight(detection) {
  if (state.active === detection) return;
  state.active?.row.classList.remove("active");
  state.active = detection;
  detection?.row.classList.add("active");
  redraw();
}

let isScheduled = false;

function redraw() {
  if (isScheduled) return;
  isScheduled = true;
  requestAnimationFrame(() => {
    isScheduled = false;
    const item = state.current;
    if (item?.status !== "done" || !item.size) return;
    const style = getComputedStyle($("#canvas"));
    const room = $("#canvas").clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    const [w, h] = item.size;
    const maxHeight = Math.max(320, window.innerHeight * 0.82);
    const scale = Math.min(room / w, maxHeight / h, MAX_UPSCALE);
    state.scale = scale;
    draw($("#canvas canvas"), {
      background: state.bitmap,
      detections: item.drawing && !state.active ? [] : visible(),
      active: state.active,
      width: Math.max(1, Math.round(w * scale)),
      height: Math.max(1, Math.round(h * scale)),
      scale,
      skeleton: state.skeleton,
    });
  });
}

/** The smallest detection under the pointer. */
function under(event) {
  const rectangle = $("#canvas canvas").getBoundingClientRect();
  const x = (event.clientX - rectangle.left) / state.scale;
  const y = (event.clientY - rectangle.top) / state.scale;
  const area = ({ box: [x1, y1, x2, y2] }) => (x2 - x1) * (y2 - y1);
  const hits = visible().filter(({ box: [x1, y1, x2, y2] }) => x1 <= x && x <= x2 && y1 <= y && y <= y2);
  return hits.sort((a, b) => area(a) - area(b))[0] ?? null;
}

// ---------------------------------------------------------------- messages

function say(text) {
  $("#status").textContent = text;
}

function announce() {
  const item = state.current;
  if (item.isDropped) return say(`${item.name}: a stage of the service dropped this image.`);
  const shown = visible();
  const counts = new Map();
  for (const one of shown) counts.set(one.className, (counts.get(one.className) ?? 0) + 1);
  const classes = [...counts].sort().map(([name, n]) => `${n} ${name}`).join(", ");
  const total = item.detections.length;
  const detections = total === 1 ? "detection" : "detections";
  const found = shown.length === total ? `${total} ${detections}` : `${shown.length} of ${total} ${detections} shown`;
  say(`${item.name}: ${found}${classes && ` (${classes})`}, answered in ${item.seconds.toFixed(2)} s`);
}

function showCurl() {
  const quoted = `'${(state.current?.name ?? "image.jpg").replaceAll("'", "'\\''")}'`;
  const token = state.needsToken ? '-H "Authorization: Bearer $D2RUN_TOKEN" ' : "";
  const url = new URL("predict", document.baseURI);
  $("#curl code").textContent = `curl ${token}--data-binary @${quoted} ${url}`;
}

async function copyCurl() {
  const code = $("#curl code");
  try {
    await navigator.clipboard.writeText(code.textContent);
    say("Copied.");
  } catch {
    // without HTTPS, browsers offer no clipboard
    getSelection().selectAllChildren(code);
    say(document.execCommand("copy") ? "Copied." : "The command is selected: copy it with Ctrl-C.");
  }
}

// ---------------------------------------------------------------- events

$("#drop").addEventListener("click", () => $("#files").click());
$("#files").addEventListener("change", (event) => {
  add(event.target.files);
  event.target.value = ""; // so that the same file can be chosen again
});

document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragging");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  const items = [...event.dataTransfer.items].filter((one) => one.kind === "file");
  const files = items.filter((one) => !one.webkitGetAsEntry()?.isDirectory);
  add(files.map((one) => one.getAsFile()));
  if (!files.length) say("Drop image files. Folders and links are not read.");
});
document.addEventListener("paste", (event) => add(event.clipboardData.files));

$("#threshold").addEventListener("input", (event) => {
  state.threshold = event.target.valueAsNumber;
  refresh();
});
$("#threshold").addEventListener("change", announce);

$("tbody").addEventListener("keydown", (event) => {
  const rows = [...$("tbody").rows].filter((row) => !row.hidden);
  const at = rows.indexOf(document.activeElement);
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: rows.length - 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  rows[Math.max(0, Math.min(to, rows.length - 1))]?.focus();
});

$("#canvas canvas").addEventListener("mousemove", (event) => highlight(under(event)));
$("#canvas canvas").addEventListener("mouseleave", () => highlight(null));
new ResizeObserver(redraw).observe($("#canvas"));

$("#error button").addEventListener("click", () => {
  state.current.status = "waiting";
  show(state.current);
  send();
});

$("#access").addEventListener("submit", async (event) => {
  event.preventDefault();
  state.token = $("#token").value;
  $("#token").value = "";
  $("#access").hidden = true;
  await loadInfo();
  for (const item of state.items) if (item.error?.status === 401 && item.status === "failed") item.status = "waiting";
  if (state.current) show(state.current);
  send();
});

$("#curl button").addEventListener("click", copyCurl);

showCurl();
loadInfo();
