// The page of a run: filters, the grid of images, the lists, and what is known of the run.

import { $, facts, grouped, make, plural, table } from "./elements.js";
import { showEvaluation } from "./evaluation.js";
import { showCharts, showVideos } from "./charts.js";
import { Scene } from "./scene.js";
import { Thumbnails } from "./thumbnails.js";
import { Viewer } from "./viewer.js";

const CARDS = 60;
const ROWS = 100;

const data = JSON.parse($("#data").textContent);
const run = JSON.parse($("#facts").textContent);
const scene = new Scene(data.things, data.stuff, apply);
const { classes, isShown, visible } = scene;

// ---------------------------------------------------------------- images

const folderOf = (id) => id.slice(0, Math.max(0, id.lastIndexOf("/")));

const images = data.images.map((image, order) => ({
  ...image,
  order,
  label: image.still ? image.id : `${image.id}, ${image.time === null ? "" : `${image.time.toFixed(2)} s, `}frame ${image.frame}`,
  folder: folderOf(image.id),
  detections: scene.detections(image.detections),
  bitmap: { src: image.src },
  skeleton: data.skeleton,
}));
const failures = data.failures.map(([id, step, error, message, attempts], i) => ({
  id, step, error, message, attempts, label: id, folder: folderOf(id), order: images.length + i, isFailure: true,
}));
const rest = data.rows.map(([id, n, lowest, counts], order) => ({ id, n, lowest, counts, order, folder: folderOf(id), label: id }));

const state = { shown: [], images: [], nCards: CARDS, rows: [], nRows: ROWS };

// ---------------------------------------------------------------- the grid

const viewer = new Viewer(scene, { items: ({ group }) => group ?? state.images });
const thumbnails = new Thumbnails(scene);

function cardOf(item) {
  if (item.isFailure) {
    const reason = make("span", { className: "frame" }, `${item.step}: ${item.message}`);
    const name = make("span", { className: "name", title: item.label }, item.label);
    return make("div", { className: "card failed", tabIndex: 0, aria: { role: "group", label: `${item.label}: failed` } }, reason, name, make("small", { className: "error" }, "failed"));
  }
  return imageCard(item, make("small"));
}

/** Return a button that shows an image small, and opens it. */
function imageCard(item, note) {
  const frame = make("span", { className: "frame" }, make("canvas"));
  const name = make("span", { className: "name", title: item.label }, item.label);
  const card = make("button", { type: "button", className: "card" }, frame, name, note);
  card.addEventListener("click", () => viewer.open(item, card));
  thumbnails.watch(frame, item);
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
  }
  thumbnails.redrawAll();
  const left = state.shown.length - wanted.length;
  $("#more").hidden = left <= 0;
  $("#more").textContent = `Show ${Math.min(left, CARDS)} more of ${grouped(left)}`;
}

// ---------------------------------------------------------------- filters

const lowestOf = (item) => Math.min(...visible(item).map((one) => one.score ?? 1));
const marginOf = (item) => Math.min(...item.detections.filter((one) => isShown(one.index)).map((one) => Math.abs((one.score ?? 0) - scene.threshold)));
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

function apply() {
  const isFiltered = scene.isFiltered();
  const hasClass = (item) => !isFiltered || item.detections.length === 0 || visible(item).length > 0 || item.regions.some(([index]) => isShown(index));
  const found = [...images.filter(hasClass), ...failures].filter((item) => matches(item, item.isFailure ? 0 : visible(item).length));
  state.shown = sorted(found, ORDERS[$("#sort").value]);
  state.images = state.shown.filter((item) => !item.isFailure);
  showGrid();
  const rows = rest.filter((row) => (!isFiltered || row.n === 0 || row.counts.some(([index]) => isShown(index))) && matches(row, row.n));
  state.rows = sorted(rows, $("#sort").value === "name" ? null : (ROW_ORDERS[$("#sort").value] ?? ORDERS.order));
  showRows();
  showCharts(data, classes, isShown, scene.threshold);
  drawTimelines(isShown);
  const detections = state.images.reduce((sum, item) => sum + visible(item).length, 0);
  const failed = state.shown.length - state.images.length;
  const more = failed ? `, ${plural(failed, "failure")}` : "";
  $("#status").textContent = `${grouped(state.images.length)} of ${plural(images.length, "image")}, ${plural(detections, "detection")}${more}`;
  $("#threshold").setAttribute("aria-valuetext", `${scene.threshold.toFixed(2)}, ${plural(detections, "detection")}`);
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
  scene.showClasses(present, counts);
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

for (const selector of ["#sort", "#kind", "#folder", "#name"]) {
  $(selector).addEventListener("input", () => {
    state.nCards = CARDS;
    state.nRows = ROWS;
    scene.change();
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
  thumbnails.redrawAll();
  drawTimelines(isShown);
}).observe($("#grid"));

showSummary();
if (run.evaluation) showEvaluation(run.evaluation, images, imageCard);
showClasses();
showFilters();
showFailures();
showRun();
apply();
document.documentElement.dataset.ready = Math.round(performance.now()); // ms after the start
