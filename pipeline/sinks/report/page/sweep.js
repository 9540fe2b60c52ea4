// The page of a sweep: the table of its jobs, and the same images of each job side by side.

import { $, facts, grouped, make, plural } from "./elements.js";
import { Scene } from "./scene.js";
import { Thumbnails } from "./thumbnails.js";
import { Viewer } from "./viewer.js";

const ROWS = 20; // images at a time
const MAX_CLASSES = 12; // columns of the table
const MAX_CHARACTERS = 24; // of a cell, before it wraps
const MAX_BESIDE = 6; // jobs that are compared at first

const STATUS = {
  0: "done", 1: "failed", 2: "invalid configuration", 3: "done, but some inputs failed", 4: "stopped: too many failures",
  11: "the output was in use", 130: "interrupted", 137: "killed", 143: "terminated",
};

const data = JSON.parse($("#data").textContent);
const sweep = JSON.parse($("#facts").textContent);
const scene = new Scene(data.things, data.stuff, apply);

// ---------------------------------------------------------------- jobs

const hasImages = new Set(data.images.flatMap((image) => image.results.map(([job]) => job)));
const jobs = sweep.jobs.map((job, order) => ({
  ...job,
  order,
  name: sweep.keys.map(({ name }, i) => `${name}=${job.values[i]}`).join(", ") || "no options",
  hasImages: hasImages.has(job.job),
  isShown: false,
}));
const byNumber = new Map(jobs.map((job) => [job.job, job]));
const bestFirst = jobs.filter((job) => job.hasImages).toSorted((a, b) => (b.metric ?? -1) - (a.metric ?? -1) || a.order - b.order);
for (const job of bestFirst.slice(0, MAX_BESIDE)) job.isShown = true;
let ordered = jobs;

const totals = new Map();
for (const job of jobs) for (const [name, n] of Object.entries(job.classes ?? {})) totals.set(name, (totals.get(name) ?? 0) + n);
const names = [...totals.keys()].sort((a, b) => totals.get(b) - totals.get(a));

const number = (value, digits = 0) => (value === null ? "" : value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits }));
const nameOf = (status) => STATUS[status] ?? (status > 128 ? `killed by signal ${status - 128}` : "failed");
const statusOf = ({ status }) => (status === null ? "not started" : `${nameOf(status)} (${status})`);
const isFinished = ({ status }) => status === 0 || status === 3;

/** The columns: title, what is sorted by, what is shown. */
const columns = [
  { title: "Job", value: (job) => job.job, isNumber: true },
  ...sweep.keys.map(({ key, name }, i) => ({ title: name, hint: key, value: (job) => job.values[i], isText: true })),
  { title: "Status", width: jobs.some((job) => job.message) ? MAX_CHARACTERS : 10, value: (job) => job.status, text: (job) => [statusOf(job), job.message && make("small", {}, job.message)], className: (job) => (isFinished(job) ? "" : "error") },
  { title: "Inputs", value: (job) => job.images, isNumber: true },
  { title: "Detections", value: (job) => job.detections, isNumber: true },
  ...(sweep.metric ? [{ title: sweep.metric, value: (job) => job.metric, text: (job) => number(job.metric, 4), isNumber: true }] : []),
  { title: "Seconds", value: (job) => job.seconds, text: (job) => number(job.seconds, 2), isNumber: true },
  ...(jobs.some((job) => job.report) ? [{ title: "Report", value: (job) => (job.report ? 0 : 1), text: (job) => (job.report ? make("a", { href: job.report, aria: { label: `Report of job ${job.job}` } }, "report") : "") }] : []),
  ...(names.length > 1 ? names.slice(0, MAX_CLASSES) : []).map((name) => ({
    title: name, hint: `Detections of ${name}`, value: (job) => (job.classes === null ? null : (job.classes[name] ?? 0)), isNumber: true,
  })),
];

/** Compare values: numbers by size, texts that are numbers too; what is missing comes last. */
function compare(a, b, sign) {
  const isMissing = (value) => value === null || value === "";
  if (isMissing(a) || isMissing(b)) return isMissing(a) - isMissing(b);
  const [x, y] = [Number(a), Number(b)];
  const order = Number.isNaN(x) || Number.isNaN(y) ? String(a).localeCompare(String(b), "en", { numeric: true }) : x - y;
  return sign * order;
}

function sortBy(column) {
  column.isDescending = column.isSorted ? !column.isDescending : column.title === sweep.metric;
  for (const each of columns) {
    each.isSorted = each === column;
    if (!each.isSorted) each.isDescending = undefined;
    each.head.removeAttribute("aria-sort");
  }
  column.head.setAttribute("aria-sort", column.isDescending ? "descending" : "ascending");
  ordered = jobs.toSorted((a, b) => compare(column.value(a), column.value(b), column.isDescending ? -1 : 1) || a.order - b.order);
  $("#jobs tbody").replaceChildren(...ordered.map((job) => job.row));
  apply();
}

function rowOf(job) {
  const box = make("input", { type: "checkbox", checked: job.isShown, disabled: !job.hasImages, aria: { label: `Show job ${job.job}` } });
  box.addEventListener("change", () => {
    job.isShown = box.checked;
    scene.change();
  });
  const cells = columns.map(({ value, text, isNumber, width, className }) => {
    const shown = text ? text(job) : isNumber ? number(value(job)) : value(job);
    const cell = make("td", { className: isNumber ? "number" : (className?.(job) ?? "") }, ...[shown].flat());
    if (width) cell.style.minWidth = `${width + 2}ch`;
    return cell;
  });
  return make("tr", { className: job.job === sweep.best ? "best" : "" }, make("td", {}, box), ...cells);
}

function showJobs() {
  for (const column of columns) {
    const button = make("button", { type: "button", title: column.hint ?? "" }, column.title);
    button.addEventListener("click", () => sortBy(column));
    if (column.isText) column.width = Math.min(MAX_CHARACTERS, Math.max(...jobs.map((job) => String(column.value(job)).length)));
    column.head = make("th", { scope: "col", className: column.isNumber ? "number" : "" }, button);
  }
  for (const job of jobs) job.row = rowOf(job);
  $("#jobs thead tr").replaceChildren(make("th", { scope: "col" }, "Show"), ...columns.map((column) => column.head));
  $("#jobs tbody").replaceChildren(...jobs.map((job) => job.row));
}

function showSummary() {
  const failed = jobs.filter((job) => !isFinished(job));
  const best = byNumber.get(sweep.best);
  const pairs = [
    ["Jobs", grouped(jobs.length)],
    ["Not finished", failed.length ? make("span", { className: "error" }, grouped(failed.length)) : ""],
    ["Seconds", number(jobs.reduce((sum, job) => sum + job.seconds, 0), 1)],
    [`Best ${sweep.metric}`, best ? `${number(best.metric, 4)}: job ${best.job}, ${best.name}` : ""],
  ];
  $("#summary").replaceWith(Object.assign(facts(pairs), { id: "summary" }));
}

// ---------------------------------------------------------------- images

const skipped = "This job has no result for the image.";

const images = data.images.map((image, order) => {
  const label = image.still ? image.id : `${image.id}, frame ${image.frame}`;
  const bitmap = { src: image.src };
  const items = new Map();
  const { size } = image;
  for (const [number, overlay, detections, regions] of image.results) {
    const job = byNumber.get(number);
    items.set(job, { image: order, job, label: `${label}, job ${number}: ${job.name}`, size, bitmap, overlay, regions, detections: scene.detections(detections), skeleton: data.skeletons[number] });
  }
  return { order, label, size, items, cards: new Map() };
});
const state = { shown: [], jobs: [], nRows: ROWS };

const viewer = new Viewer(scene, {
  items: ({ job }) => state.shown.map((image) => image.items.get(job)).filter(Boolean),
  beside({ image, job }, step) {
    const others = state.jobs.map((other) => images[image].items.get(other)).filter(Boolean);
    return others[others.findIndex((item) => item.job === job) + step];
  },
});
const thumbnails = new Thumbnails(scene);

function cardOf(image, job) {
  const item = image.items.get(job);
  const title = `Job ${job.job}: ${job.name}`;
  if (!item) return make("div", { className: "missing" }, title, make("br"), skipped);
  const frame = make("span", { className: "frame" }, make("canvas"));
  const card = make("button", { type: "button", className: "card" }, frame, make("span", { className: "name", title }, title), make("small"));
  card.addEventListener("click", () => viewer.open(item, card));
  thumbnails.watch(frame, item);
  return card;
}

function showGrid() {
  const wanted = state.shown.slice(0, state.nRows);
  const entries = wanted.map((image) => {
    image.entry ??= make("li", {}, make("h3", {}, image.label), make("div", { className: "jobs" }));
    const cards = state.jobs.map((job) => {
      if (!image.cards.has(job)) image.cards.set(job, cardOf(image, job));
      const card = image.cards.get(job);
      if (image.items.has(job)) card.querySelector("small").textContent = plural(scene.visible(image.items.get(job)).length, "detection");
      return card;
    });
    image.entry.lastChild.replaceChildren(...cards);
    return image.entry;
  });
  $("#grid").replaceChildren(...entries);
  thumbnails.redrawAll();
  const left = state.shown.length - wanted.length;
  $("#more").hidden = left <= 0;
  $("#more").textContent = `Show ${Math.min(left, ROWS)} more of ${grouped(left)}`;
}

/** The number of visible detections of an image in each job that is shown. */
const counts = (image) => state.jobs.filter((job) => image.items.has(job)).map((job) => scene.visible(image.items.get(job)).length);

const ORDERS = {
  differ: (image) => Math.min(...counts(image)) - Math.max(...counts(image)),
  order: () => 0,
  name: (image) => image.label,
  most: (image) => -Math.max(...counts(image)),
  fewest: (image) => Math.min(...counts(image)),
};

function apply() {
  state.jobs = ordered.filter((job) => job.isShown);
  const name = $("#name").value.toLowerCase();
  const found = images.filter((image) => image.label.toLowerCase().includes(name) && state.jobs.some((job) => image.items.has(job)));
  const keys = new Map(found.map((image) => [image, ORDERS[$("#sort").value](image)]));
  state.shown = found.toSorted((a, b) => (keys.get(a) < keys.get(b) ? -1 : keys.get(a) > keys.get(b) ? 1 : a.order - b.order));
  showGrid();
  const sums = state.jobs.map((job) => {
    const n = state.shown.reduce((sum, image) => sum + (image.items.has(job) ? scene.visible(image.items.get(job)).length : 0), 0);
    return `job ${job.job}: ${grouped(n)}`;
  });
  const matching = `${grouped(state.shown.length)} of ${plural(images.length, "image")}`;
  $("#status").textContent = sums.length ? `${matching}; detections in ${sums.join(", ")}` : `${matching}: no job is selected above`;
  $("#threshold").setAttribute("aria-valuetext", `${scene.threshold.toFixed(2)}; ${$("#status").textContent}`);
}

function showNotes() {
  const most = Math.max(0, ...jobs.map((job) => job.images ?? 0));
  const notes = [];
  if (images.length < most) notes.push(`A random sample of ${grouped(images.length)} images is shown, the same in each job.`);
  if (images.some((image) => [...image.items.values()][0].bitmap.src === null)) notes.push("Some images could not be read again; only their detections are drawn.");
  if (!images.length) notes.push("No job has results with images.");
  $("#note").textContent = notes.join(" ");
  $("#note").hidden = !notes.length;
}

// ---------------------------------------------------------------- start

for (const selector of ["#sort", "#name"]) {
  $(selector).addEventListener("input", () => {
    state.nRows = ROWS;
    scene.change();
  });
}
$("#filters").addEventListener("submit", (event) => event.preventDefault());
$("#more").addEventListener("click", () => {
  const first = state.nRows;
  state.nRows += ROWS;
  showGrid();
  $("#grid").children[first]?.querySelector("button")?.focus();
});
new ResizeObserver(() => thumbnails.redrawAll()).observe($("#grid"));
$("#view-keys").textContent = "← → change the image, ↑ ↓ the job, + − zoom, Escape closes.";

showSummary();
showJobs();
const present = new Set(data.images.flatMap((image) => image.results.flatMap(([, , detections, regions]) => [...detections, ...regions].map(([index]) => index))));
scene.showClasses([...present].sort((a, b) => a - b), new Map());
showNotes();
apply();
document.documentElement.dataset.ready = Math.round(performance.now()); // ms after the start
