// The evaluation of a run against a ground truth: tables, and the images with the most errors.

import { axis, chart, columns } from "./charts.js";
import { $, facts, grouped, make, plural, table } from "./elements.js";

const MAX_CLASSES = 200;
const DEFAULT_SCORE = 0.5; // of classes without a best one

const percent = (value) => (value === null || value === undefined ? "–" : (100 * value).toFixed(2));
const rates = (one) => [percent(one.precision), percent(one.recall), percent(one.f1)];

function numbers(evaluation) {
  const kinds = ["box", "mask", "keypoints"].filter((kind) => evaluation[kind]);
  const names = ["AP", "AP50", "AP75", "APs", "APm", "APl"];
  const rows = kinds.map((kind) => [kind, ...names.map((name) => percent(evaluation[kind][name])), percent(evaluation[kind].AR100 ?? evaluation[kind].AR)]);
  return ["COCO's numbers, in percent", ["Of", ...names.map((name) => `#${name}`), "#AR"], rows];
}

function perClass({ f1, ...evaluation }) {
  const of = evaluation[f1.of].classes;
  const sorted = Object.entries(f1.classes).sort((a, b) => b[1].instances - a[1].instances);
  const rows = sorted.slice(0, MAX_CLASSES).map(([name, one]) => [name, grouped(one.instances), percent(of[name].AP), one.threshold ?? "–", ...rates(one)]);
  rows.push(["all", grouped(evaluation.instances), percent(evaluation[f1.of].AP), "", ...rates(f1.together)]);
  const shown = sorted.length > MAX_CLASSES ? ` (${MAX_CLASSES} of ${sorted.length})` : "";
  return [`Classes, by ${f1.of}, at the score with the best F1${shown}`, ["Class", "#n", "#AP", "#Score ≥", "#P", "#R", "#F1"], rows];
}

function confusion({ classes, matrix }) {
  const names = classes.map((name) => name ?? "nothing");
  return ["Confusion: rows are true classes", ["Is", ...names.map((name) => `#${name}`)], matrix.map((row, i) => [names[i], ...row.map(grouped)])];
}

function comparison(found) {
  const rows = [];
  for (const kind of ["box", "mask", "keypoints"]) {
    for (const name of found[kind] ? ["AP", "AP50", "AP75"] : []) {
      const one = found[kind][name];
      const interval = one.interval ? one.interval.map(percent).join(" to ") : "–";
      rows.push([`${kind} ${name}`, percent(one.this), percent(one.other), percent(one.difference), interval]);
    }
  }
  return ["Compared with the other run", ["Number", "#This", "#Other", "#Difference", "#95 % interval"], rows];
}

function panoptic(found) {
  const named = [["all", found], ["things", found.things], ["stuff", found.stuff], ...Object.entries(found.classes)];
  return ["Panoptic quality, in percent", ["Class", "#PQ", "#SQ", "#RQ"], named.map(([name, one]) => [name, percent(one.PQ), percent(one.SQ), percent(one.RQ)])];
}

/** Yield the tables that an evaluation has: title, columns, rows. */
function* tables(evaluation) {
  if (evaluation.panoptic) yield panoptic(evaluation.panoptic);
  if (!evaluation.f1) return;
  yield numbers(evaluation);
  yield perClass(evaluation);
  if (evaluation.tide) {
    const rows = Object.entries(evaluation.tide).filter(([, one]) => one.count !== null);
    yield ["Errors (TIDE)", ["Error", "#Count", "#AP50 lost"], rows.map(([name, one]) => [name, grouped(one.count), percent(one.ap)])];
  }
  if (evaluation.confusion) yield confusion(evaluation.confusion);
  else if (evaluation.confused?.length) {
    yield ["Most common confusions", ["#Count", "Is", "Detected as"], evaluation.confused.map(([n, is, as]) => [grouped(n), is ?? "nothing", as ?? "nothing"])];
  }
  const places = Object.entries(evaluation.positions ?? {}).filter(([, one]) => one.instances);
  yield ["By position in the image", ["Objects", "#n", "#AP50", "#P", "#R", "#F1"], places.map(([name, one]) => [name, grouped(one.instances), percent(one.AP50), ...rates(one)])];
  if (evaluation.slices) {
    const kinds = ["box", "mask", "keypoints"].filter((kind) => evaluation[kind]);
    const rows = Object.entries(evaluation.slices.values).map(([value, one]) => [value, grouped(one.images), grouped(one.instances), grouped(one.errors), ...kinds.map((kind) => percent(one[kind].AP))]);
    yield [`By ${evaluation.slices.column}`, ["Value", "#Images", "#n", "#Errors", ...kinds.map((kind) => `#${kind} AP`)], rows];
  }
  if (!evaluation.comparison) return;
  yield comparison(evaluation.comparison);
  const differ = evaluation.comparison.disagreements.map((one) => [one.asset, grouped(one.errors), grouped(one.other_errors)]);
  yield ["Images where the runs differ most", ["Image", "#Errors", "#Of the other"], differ];
}

function f1Chart({ f1 }) {
  const rows = f1.one.curve;
  const bars = columns(rows.map(([, , , value]) => value ?? 0), (i) => `score ≥ ${rows[i][0]}: P ${percent(rows[i][1])}, R ${percent(rows[i][2])}, F1 ${percent(rows[i][3])}`);
  const best = f1.one.threshold === null ? "" : `, best ${percent(f1.one.f1)} at ${f1.one.threshold}`;
  return chart(`F1 by score threshold, one for all classes${best}`, `F1 of thresholds from 0 to 0.95${best}`, bars, axis("0", "0.5", "0.95"));
}

function calibrationChart({ calibration }) {
  const precision = new Array(10).fill(0);
  for (const [low, , , right] of calibration.bins) precision[Math.round(low * 10)] = right;
  const text = `Share of right detections by score; they differ by ${percent(calibration.ece)} % on average (ECE)`;
  return chart(text, text, columns(precision, (i) => `score ${i / 10} to ${(i + 1) / 10}: ${percent(precision[i])} % right`), axis("0", "0.5", "1"));
}

/** Return the worst images as they were judged: without detections below the best score of their class. */
function judged({ f1, worst_images: worst }, images) {
  const least = (one) => Math.fround(f1.classes[one.className]?.threshold ?? DEFAULT_SCORE);
  const wanted = new Set(worst.map((one) => `${one.asset}\n${one.frame}`));
  const found = new Map();
  for (const item of images) {
    const key = `${item.id}\n${item.frame}`;
    if (!wanted.has(key)) continue;
    const detections = item.detections.filter((one) => Math.fround(one.score ?? 0) >= least(one));
    found.set(key, { ...item, detections });
  }
  const group = worst.map((one) => found.get(`${one.asset}\n${one.frame}`)).filter(Boolean);
  for (const item of group) item.group = group;
  return found;
}

/** Show the evaluation; `card(item, note)` makes a button with an image. */
export function showEvaluation(evaluation, images, card) {
  const { metric, ground_truth: truth } = evaluation;
  const pairs = [
    [metric.name, percent(metric.value) === "–" ? "–" : `${percent(metric.value)} %`],
    ["Ground truth", truth.name],
    ["Images", `${grouped(evaluation.images.evaluated)}, matched by ${evaluation.matched_by}`],
    ["Engine", evaluation.engine],
  ];
  const notes = evaluation.warnings.map((text) => make("p", {}, `Warning: ${text}`));
  const parts = Array.from(tables(evaluation), ([title, names, rows]) => make("div", {}, make("h3", {}, title), table(title, names, rows)));
  const charts = [evaluation.f1 && f1Chart(evaluation), evaluation.calibration?.ece != null && calibrationChart(evaluation)];
  if (evaluation.f1) parts.push(make("div", { className: "charts" }, ...charts.filter(Boolean)));
  $("#evaluation").append(...notes, facts(pairs), make("div", { className: "columns-2" }, ...parts));
  const worst = evaluation.worst_images ?? [];
  if (worst.length) {
    const byKey = judged(evaluation, images);
    const entries = worst.map((one) => {
      const reasons = `${plural(one.errors, "error")}: ${one.reasons.join(", ")}`;
      const item = byKey.get(`${one.asset}\n${one.frame}`);
      const note = make("small", { className: "reasons" }, reasons);
      return make("li", {}, item ? card(item, note) : make("div", { className: "card" }, make("span", { className: "name" }, one.asset), note));
    });
    $("#evaluation").append(make("h3", {}, "Images with the most errors, with the detections above the best score of their class"), make("ul", { className: "cards", aria: { label: "Images with the most errors" } }, ...entries));
  }
  $("#evaluation").hidden = $('nav a[href="#evaluation"]').hidden = false;
}
