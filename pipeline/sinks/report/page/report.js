// The page of a run: filters, the grid of images, the lists, and what is known of the run.

import { classColor, css, draw, outline, stuffColor } from "./drawing.js";
import { $, facts, grouped, make, plural, table } from "./elements.js";
import { showCharts, showVideos } from "./charts.js";
import { Viewer } from "./viewer.js";

const CARDS = 60;
const ROWS = 100;

const data = JSON.parse($("#data").textContent);
const run = JSON.parse($("#facts").textContent);
const classes = [
  ...data.things.map((name, i) => ({ name, color: classColor(i), isShown: true, isStuff: false })),
  ...data.stuff.map((name, i) => ({ name, color: stuffColor(i), isShown: true, isStuff: true })),
];
const isShown = (index) => classes[index].isShown;

// ---------------------------------------------------------------- images

const folderOf = (id) => id.slice(0, Math.max(0, id.lastIndexOf("/")));

const images = data.images.map((image, order) => ({
  ...image,
  order,
  label: image.still ? image.id : `${image.id}, ${image.time === null ? "" : `${image.time.toFixed(2)} s, `}frame ${image.frame}`,
  folder: folderOf(image.id),
  detections: image.detections.map(([index, score, box, rle, trackId, keypoints]) => ({
    index, score, box, rle, trackId, keypoints: keypoints || null, className: classes[index].name, color: classes[index].color,
  })),
}));
const failures = data.failures.map(([id, step, error, message, attempts], i) => ({
  id, step, error, message, attempts, label: id, folder: folderOf(id), order: images.length + i, isFailure: true,
}));
const rest = data.rows.map(([id, n, lowest, counts], order) => ({ id, n, lowest, counts, order, folder: folderOf(id), label: id }));

const state = { threshold: 0, shown: [], images: [], nCards: CARDS, rows: [], nRows: ROWS };

const isVisible = (one) => isShown(one.index) && (state.threshold === 0 || (one.score ?? 0) >= state.threshold);
const visible = (item) => item.detections.filter(isVisible);

function scaled(rle, [width, height]) {
  const { path } = outline(rle);
  const [h, w] = rle.size;
  if (w === width && h === height) return { path };
  const larger = new Path2D();
  larger.addPath(path, new DOMMatrix().scale(width / w, height / h));
  return { path: larger };
}

/** Make the masks of an image, once it is drawn. */
function prepare(item) {
  if (item.areas) return;
  for (const one of item.detections) one.mask = one.rle ? scaled(one.rle, item.size) : null;
  item.areas = item.regions.map(([index, rle]) => ({
    index, mask: scaled(rle, item.size), color: classes[index].color, className: classes[index].name,
  }));
}

const regions = (item) => (item.areas ?? []).filter((one) => isShown(one.index));

async function load(item) {
  if (!item.src) return null;
  const image = new Image();
  image.src = item.src;
  try {
    await image.decode();
  } catch {
    return null;
  }
  return image;
}

// ---------------------------------------------------------------- the grid

const viewer = new Viewer({ items: () => state.images, prepare, load, visible, regions, skeleton: data.skeleton });
const drawn = new Map(); // the items whose cards are on the screen, by card
const watcher = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) {
        drawn.set(target, target.item);
        requestDrawing(target);
      } else drawn.delete(target);
    }
  },
  { rootMargin: "200px" },
);

const waiting = new Set(); // cards to draw
let isDrawing = false;

/** Draw a card soon. Between cards, the page answers to its user: masks take time to trace. */
async function requestDrawing(card) {
  waiting.add(card);
  if (isDrawing) return;
  isDrawing = true;
  let until = 0;
  for (const next of waiting) {
    if (performance.now() > until) {
      await new Promise((resolve) => setTimeout(resolve));
      until = performance.now() + 12;
    }
    waiting.delete(next);
    if (drawn.has(next)) await drawCard(next, next.item);
  }
  isDrawing = false;
}

async function drawCard(card, item) {
  prepare(item);
  item.pixels ??= load(item);
  const background = await item.pixels;
  const frame = card.querySelector(".frame");
  const [w, h] = item.size;
  const scale = Math.min(frame.clientWidth / w, frame.clientHeight / h, 3);
  if (!(scale > 0)) return;
  draw(frame.firstChild, {
    background,
    detections: visible(item),
    regions: regions(item),
    labels: false,
    width: Math.max(1, Math.floor(w * scale)),
    height: Math.max(1, Math.floor(h * scale)),
    scale,
    skeleton: data.skeleton,
  });
}

function cardOf(item) {
  if (item.isFailure) {
    const reason = make("span", { className: "frame" }, `${item.step}: ${item.message}`);
    const name = make("span", { className: "name", title: item.label }, item.label);
    return make("div", { className: "card failed", tabIndex: 0, aria: { role: "group", label: `${item.label}: failed` } }, reason, name, make("small", { className: "error" }, "failed"));
  }
  const frame = make("span", { className: "frame" }, make("canvas"));
  const name = make("span", { className: "name", title: item.label }, item.label);
  const card = make("button", { type: "button", className: "card" }, frame, name, make("small"));
  card.item = item;
  card.addEventListener("click", () => viewer.open(item, card));
  return card;
}

function showGrid() {
  const wanted = state.shown.slice(0, state.nCards);
  const entries = wanted.map((item) => {
    item.entry ??= make("li", {}, cardOf(item));
    return item.entry;
  });
  $("#grid").replaceChildren(...entries);
  for (const item of wanted) {
    if (item.isFailure) continue;
    const card = item.entry.firstChild;
    const n = visible(item).length;
    card.querySelector("small").textContent = plural(n, "detection");
    watcher.observe(card);
    if (drawn.has(card)) requestDrawing(card);
  }
  const left = state.shown.length - wanted.length;
  $("#more").hidden = left <= 0;
  $("#more").textContent = `Show ${Math.min(left, CARDS)} more of ${grouped(left)}`;
}

// ---------------------------------------------------------------- filters

const lowestOf = (item) => Math.min(...visible(item).map((one) => one.score ?? 1));
const marginOf = (item) => Math.min(...item.detections.filter((one) => isShown(one.index)).map((one) => Math.abs((one.score ?? 0) - state.threshold)));
const countOf = (item) => (item.isFailure ? -1 : visible(item).length);

const ORDERS = {
  order: (item) => item.order,
  name: null,
  most: (item) => -countOf(item),
  fewest: (item) => (item.isFailure ? Infinity : countOf(item)),
  lowest: (item) => (item.isFailure ? Infinity : lowestOf(item)),
  margin: (item) => (item.isFailure ? Infinity : marginOf(item)),
  failure: (item) => (item.isFailure ? 0 : 1),
};
const ROW_ORDERS = {
  most: (row) => -row.n,
  fewest: (row) => row.n,
  lowest: (row) => row.lowest ?? Infinity,
};

function sorted(items, keyOf) {
  if (keyOf === null) return items.toSorted((a, b) => (a.label < b.label ? -1 : a.label > b.label ? 1 : a.order - b.order));
  const keys = new Map(items.map((item) => [item, keyOf(item)]));
  const compare = (a, b) => (a === b ? 0 : a < b ? -1 : 1); // Infinity - Infinity is no number
  return items.toSorted((a, b) => compare(keys.get(a), keys.get(b)) || a.order - b.order);
}

/** Whether an item matches the folder, the name and what to show. */
function matches(item, n) {
  const kind = $("#kind").value;
  const name = $("#name").value.toLowerCase();
  const folder = $("#folder").value;
  if (folder && item.folder !== folder.slice(1)) return false;
  if (name && !item.label.toLowerCase().includes(name)) return false;
  if (kind === "all") return true;
  if (item.isFailure) return kind === "failed" || kind === `reason:${item.step}`;
  return kind === "with" ? n > 0 : kind === "empty" && n === 0;
}

let isScheduled = false;

/** Apply the filters, at most once per frame. */
function refresh() {
  if (isScheduled) return;
  isScheduled = true;
  requestAnimationFrame(() => {
    isScheduled = false;
    apply();
  });
}

function apply() {
  const isFiltered = classes.some((one) => !one.isShown);
  const hasClass = (item) => !isFiltered || item.detections.length === 0 || visible(item).length > 0 || item.regions.some(([index]) => isShown(index));
  const found = [...images.filter(hasClass), ...failures].filter((item) => matches(item, item.isFailure ? 0 : visible(item).length));
  state.shown = sorted(found, ORDERS[$("#sort").value]);
  state.images = state.shown.filter((item) => !item.isFailure);
  showGrid();
  const rows = rest.filter((row) => (!isFiltered || row.n === 0 || row.counts.some(([index]) => isShown(index))) && matches(row, row.n));
  state.rows = sorted(rows, $("#sort").value === "name" ? null : (ROW_ORDERS[$("#sort").value] ?? ORDERS.order));
  showRows();
  showCharts(data, classes, isShown, state.threshold);
  drawTimelines(isShown);
  const detections = state.images.reduce((sum, item) => sum + visible(item).length, 0);
  const failed = state.shown.length - state.images.length;
  const more = failed ? `, ${plural(failed, "failure")}` : "";
  $("#status").textContent = `${grouped(state.images.length)} of ${plural(images.length, "image")}, ${plural(detections, "detection")}${more}`;
  $("#threshold").setAttribute("aria-valuetext", `${state.threshold.toFixed(2)}, ${plural(detections, "detection")}`);
}

function showRows() {
  const shown = state.rows.slice(0, state.nRows);
  const lines = shown.map((row) => make("tr", {}, make("td", {}, row.label), make("td", {}, row.n), make("td", {}, row.lowest === null ? "–" : row.lowest.toFixed(3))));
  $("#rest tbody").replaceChildren(...lines);
  $("#rest").hidden = !rest.length && !data.n_unlisted;
  const unlisted = data.n_unlisted ? `; ${grouped(data.n_unlisted)} more are only in predictions.jsonl` : "";
  $("#rest summary").textContent = `Images without a thumbnail: ${grouped(state.rows.length)} of ${grouped(rest.length)}${unlisted}`;
  $("#more-rows").hidden = shown.length >= state.rows.length;
}

function showClasses() {
  const totals = new Map(data.frames_with);
  const counts = new Map(data.scores.map(([index, bins]) => [index, bins.reduce((a, b) => a + b, 0)]));
  const present = [...totals.keys()].sort((a, b) => classes[a].isStuff - classes[b].isStuff || totals.get(b) - totals.get(a));
  for (const [index] of data.scores) if (!totals.has(index)) present.push(index);
  for (const image of images) for (const [index] of image.regions) if (!present.includes(index)) present.push(index);
  const boxes = present.map((index) => {
    const one = classes[index];
    one.input = make("input", { type: "checkbox", checked: true });
    one.input.addEventListener("change", () => {
      one.isShown = one.input.checked;
      refresh();
    });
    const swatch = make("span", { className: "swatch" });
    swatch.style.backgroundColor = css(one.color);
    const n = counts.has(index) ? grouped(counts.get(index)) : "";
    return make("label", {}, one.input, swatch, one.name, make("small", {}, n));
  });
  const setAll = (value) => () => {
    for (const index of present) classes[index].isShown = classes[index].input.checked = value;
    refresh();
  };
  $("#all-classes").addEventListener("click", setAll(true));
  $("#no-class").addEventListener("click", setAll(false));
  $("#classes").replaceChildren(...boxes);
  $("#classes-row").hidden = !present.length;
}

function showFilters() {
  const folders = [...new Set([...images, ...failures, ...rest].map((item) => item.folder))].sort();
  const options = folders.slice(0, 1000).map((name) => make("option", { value: `/${name}` }, name || "(top)"));
  $("#folder").append(...options);
  $("#folder").parentElement.hidden = folders.length < 2;
  if (failures.length) $("#kind").append(make("option", { value: "failed" }, "Failed"));
  for (const step of new Set(failures.map((item) => item.step))) {
    $("#kind").append(make("option", { value: `reason:${step}` }, `Failed: ${step}`));
  }
  const lowest = run.limits?.min_score;
  const note = [run.images_note && `Some images could not be read: ${run.images_note}.`];
  if (lowest) note.push(`The run dropped detections with a score below ${lowest}.`);
  const listed = rest.length + data.n_unlisted;
  if (listed) note.push(`Of ${plural(data.n_images, "image")}, a sample of ${grouped(images.length)} is shown here, drawn by class and score. The statistics are of all images.`);
  $("#note").textContent = note.filter(Boolean).join(" ");
  $("#note").hidden = !$("#note").textContent;
}

// ---------------------------------------------------------------- the run

function showSummary() {
  const detections = data.scores.reduce((sum, [, bins]) => sum + bins.reduce((a, b) => a + b, 0), 0);
  const failed = make("span", { className: data.n_failures ? "error" : "" }, grouped(data.n_failures));
  const pairs = [
    ["Images", data.n_images || !data.videos.length ? grouped(data.n_images) : ""],
    ["Videos", data.videos.length ? `${data.videos.length} (${plural(data.n_frames - data.n_images, "frame")})` : ""],
    ["Detections", grouped(detections)],
    ["Without detections", grouped(data.n_empty)],
    ["Failed", failed],
    ["Model", run.model?.tag ?? run.model?.name],
    ["Time", run.seconds?.wall ? `${run.seconds.wall.toFixed(1)} s` : ""],
  ];
  $("#summary").replaceWith(Object.assign(facts(pairs), { id: "summary" }));
}

function showFailures() {
  if (!data.n_failures) return $("#failures").append(make("p", {}, "Every input was processed in full."));
  const reasons = new Map();
  for (const one of failures) {
    // without names and numbers, equal reasons are equal
    const reason = `${one.step}: ${one.message.replaceAll(one.id, "…").replace(/\b\d+\b/g, "…")}`;
    reasons.set(reason, [...(reasons.get(reason) ?? []), one]);
  }
  const groups = [...reasons].sort((a, b) => b[1].length - a[1].length).slice(0, 50);
  for (const [reason, members] of groups) {
    const rows = members.slice(0, 200).map((one) => [one.label, one.message, one.attempts]);
    const list = table(reason, ["Input", "Message", "#Attempts"], rows);
    $("#failures").append(make("details", {}, make("summary", {}, `${grouped(members.length)} × ${reason}`), list));
  }
  $("#failures").append(make("p", { className: "hint" }, `${grouped(data.n_failures)} in total; all are in failures.jsonl.`));
}

const seconds = (value) => (value < 0.1 ? `${(1000 * value).toFixed(1)} ms` : `${value.toFixed(2)} s`);

function showRun() {
  const model = run.model ?? {};
  const pairs = [
    ["Model", [model.tag ?? model.name, model.config].filter(Boolean).join(", ")],
    ["Weights", model.weights],
    ["SHA-256 of the weights", model.weights_sha256],
    ["Digest of the stored model", model.digest],
    ["Device", [run.device?.device, run.device?.name].filter(Boolean).join(", ")],
    ["Start", run.start],
    ["End", run.end ?? (run.state === "running" ? "the run was still running" : "")],
    ["Exit status", run.exit_status],
    ["Fingerprint of the settings", run.fingerprint],
    ["Versions", Object.entries(run.versions ?? {}).filter(([, value]) => value).map(([name, value]) => `${name} ${value}`).join(", ")],
    ["d2run commit", run.d2run?.git_commit],
  ];
  const left = make("div", {}, make("h3", {}, "Model and versions"), facts(pairs));
  const right = make("div", {});
  const steps = Object.entries(run.seconds ?? {});
  if (steps.length) {
    const rows = steps.map(([step, value]) => [step === "wall" ? "wall time" : step, seconds(value), run.inputs_per_s?.[step] ?? ""]);
    right.append(make("h3", {}, "Time per step"), table("Time per step", ["Step", "#Time", "#Inputs per s"], rows));
    right.append(make("p", { className: "hint" }, "Steps overlap, so that their sum can be longer than the wall time."));
  }
  if (run.slowest?.length) {
    right.append(make("h3", {}, "Slowest inputs"), table("Slowest inputs", ["Input", "#Time in all steps"], run.slowest.map(([id, value]) => [id, seconds(value)])));
  }
  const empty = [...images.filter((item) => !item.detections.length), ...rest.filter((row) => !row.n)];
  if (empty.length) {
    const list = table("Images without detections", ["Image"], empty.slice(0, 200).map((item) => [item.label]));
    const of = empty.length < data.n_empty || empty.length > 200 ? `, of which ${Math.min(200, empty.length)} are listed` : "";
    right.append(make("details", {}, make("summary", {}, `Without detections: ${grouped(data.n_empty)}${of}`), list));
  }
  const repeat = make("div", {}, make("h3", {}, "How to repeat it"), make("p", {}, "In the directory where the run was started:"), make("pre", { tabIndex: 0 }, run.command ?? "unknown"));
  const config = make("details", {}, make("summary", {}, "Configuration"), make("pre", { tabIndex: 0 }, run.config));
  const warnings = (run.warnings ?? []).map((text) => make("p", {}, `Warning: ${text}`));
  if (run.message) warnings.push(make("p", { className: "error" }, run.message));
  $("#run").append(...warnings, make("div", { className: "columns-2" }, left, right), repeat, config);
}

// ---------------------------------------------------------------- start

const drawTimelines = showVideos(data, classes, (id, frame) => {
  const frames = state.images.filter((item) => item.id === id);
  const nearest = frames.toSorted((a, b) => Math.abs(a.frame - frame) - Math.abs(b.frame - frame))[0];
  if (nearest) viewer.open(nearest);
});

$("#threshold").addEventListener("input", (event) => {
  state.threshold = event.target.valueAsNumber;
  $("#threshold-row output").textContent = state.threshold.toFixed(2);
  refresh();
});
for (const selector of ["#sort", "#kind", "#folder", "#name"]) {
  $(selector).addEventListener("input", () => {
    state.nCards = CARDS;
    state.nRows = ROWS;
    refresh();
  });
}
$("#filters").addEventListener("submit", (event) => event.preventDefault());
$("#more").addEventListener("click", () => {
  const first = state.nCards;
  state.nCards += CARDS;
  showGrid();
  $("#grid").children[first]?.firstChild.focus();
});
$("#more-rows").addEventListener("click", () => {
  state.nRows += ROWS;
  showRows();
});
$("#rest").addEventListener("toggle", showRows);
new ResizeObserver(() => {
  for (const card of drawn.keys()) requestDrawing(card);
  drawTimelines(isShown);
}).observe($("#grid"));

showSummary();
showClasses();
showFilters();
showFailures();
showRun();
apply();
document.documentElement.dataset.ready = Math.round(performance.now()); // ms after the start
