// The charts: plain elements whose sizes are set by script.

import { css } from "./drawing.js";
import { $, grouped, make, plural, table } from "./elements.js";

const MAX_BARS = 40;

/** Return a chart with a title; `text` says the same to those who do not see it. */
export function chart(title, text, ...parts) {
  const body = make("div", { aria: { role: "img", label: text } }, ...parts);
  return make("figure", {}, make("figcaption", {}, title), body);
}

export function columns(values, title = () => "", isBelow = () => false) {
  const most = Math.max(1, ...values);
  const bars = values.map((value, i) => {
    const bar = make("i", { title: title(i, value), className: isBelow(i) ? "below" : "" });
    bar.style.height = `${(100 * value) / most}%`;
    return bar;
  });
  return make("div", { className: "columns" }, ...bars);
}

export const axis = (...texts) => make("div", { className: "axis" }, ...texts.map((text) => make("span", {}, text)));

/** Return the sums of the arrays of the classes that are shown. */
function summed(pairs, isShown, length) {
  const sums = new Array(length).fill(0);
  for (const [index, values] of pairs) {
    if (isShown(index)) values.forEach((value, i) => (sums[i] += value));
  }
  return sums;
}

function perImage(counts) {
  const most = counts.length ? counts[counts.length - 1][0] : 0;
  const width = Math.max(1, Math.ceil((most + 1) / 25));
  const bins = new Array(Math.floor(most / width) + 1).fill(0);
  for (const [n, images] of counts) bins[Math.floor(n / width)] += images;
  return { bins, width, most };
}

/** Draw all charts again, for the classes and the threshold that are chosen. */
export function showCharts(data, classes, isShown, threshold) {
  const scores = summed(data.scores, isShown, 20);
  const sizes = summed(data.sizes, isShown, 12);
  const places = summed(data.places, isShown, 144);
  const total = scores.reduce((a, b) => a + b, 0);
  const counted = data.scores
    .map(([index, bins]) => [index, bins.reduce((a, b) => a + b, 0)])
    .filter(([index]) => isShown(index))
    .sort((a, b) => b[1] - a[1]);
  const shown = counted.slice(0, MAX_BARS);
  const bars = shown.flatMap(([index, n]) => {
    const bar = make("i");
    bar.style.width = `${(100 * n) / Math.max(1, counted[0][1])}%`;
    bar.style.backgroundColor = css(classes[index].color);
    return [make("span", {}, classes[index].name), bar, make("span", {}, grouped(n))];
  });
  const { bins, width, most } = perImage(data.counts);
  const densest = Math.max(1, ...places);
  const cells = places.map((n) => {
    const cell = make("i", { title: plural(n, "detection") });
    cell.style.opacity = n / densest;
    return cell;
  });
  const range = (i) => `${(i / 20).toFixed(2)} to ${((i + 1) / 20).toFixed(2)}`;
  const above = scores.slice(Math.ceil(threshold * 20)).reduce((a, b) => a + b, 0);
  const all = make("div", { className: "bars", tabIndex: 0, aria: { role: "group", label: "Detections per class" } }, ...bars);
  const parts = [
    chart(
      "Scores",
      `Histogram of the scores of ${plural(total, "detection")}, ${grouped(above)} of them above the threshold`,
      columns(scores, (i, n) => `${range(i)}: ${grouped(n)}`, (i) => (i + 1) / 20 <= threshold),
      axis("0", "0.5", "1"),
    ),
    make(
      "figure",
      {},
      make("figcaption", {}, counted.length > MAX_BARS ? `Detections per class (${MAX_BARS} of ${counted.length})` : "Detections per class"),
      bars.length ? all : make("p", {}, "None"),
    ),
    chart(
      "Detections per image",
      `Histogram: 0 to ${most} detections per image, ${plural(data.n_empty, "image")} without any`,
      columns(bins, (i, n) => `${i * width}${width > 1 ? ` to ${i * width + width - 1}` : ""} detections: ${plural(n, "image")}`),
      axis("0", most),
    ),
    chart(
      "Sizes (square root of the box's area, px)",
      "Histogram of the sizes of the detections",
      columns(sizes, (i, n) => `${2 ** i} to ${2 ** (i + 1)} px: ${grouped(n)}`),
      axis("1", "8", "64", "512", "4096"),
    ),
    chart("Positions of box centers", "Density of the detections over the image", make("div", { className: "heat" }, ...cells)),
  ];
  $("#charts").replaceChildren(...parts);
}

// ---------------------------------------------------------------- videos

function drawTimeline(canvas, video, classes, isShown) {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  const totals = video.bins.map(([, , counts]) => counts.reduce((sum, [index, n]) => sum + (isShown(index) ? n : 0), 0));
  const most = Math.max(1, ...totals);
  const step = width / Math.max(1, video.bins.length);
  video.bins.forEach(([, , counts], i) => {
    let y = height;
    for (const [index, n] of counts) {
      if (!isShown(index)) continue;
      const h = (n / most) * height;
      y -= h;
      context.fillStyle = css(classes[index].color);
      context.fillRect(i * step, y, Math.max(step, 1), h);
    }
  });
}

const time = (seconds, frame) => (seconds === null ? `frame ${frame}` : `${seconds.toFixed(2)} s`);

/** Show the videos, each with a timeline; `open(id, frame)` is called for a place in one. */
export function showVideos(data, classes, open) {
  const drawn = [];
  for (const video of data.videos) {
    const detections = video.bins.reduce((sum, [, , counts]) => sum + counts.reduce((n, one) => n + one[1], 0), 0);
    const end = time(video.end[1], video.end[0]);
    const text = `${plural(video.frames, "frame")}, ${plural(detections, "detection")}, until ${end}`;
    const canvas = make("canvas", { className: "timeline", aria: { role: "img", label: `${video.id}: ${text}` } });
    canvas.addEventListener("click", (event) => {
      const share = event.offsetX / canvas.clientWidth;
      const bin = video.bins[Math.min(video.bins.length - 1, Math.floor(share * video.bins.length))];
      open(video.id, bin[0]);
    });
    const parts = [make("h3", {}, video.id), make("p", {}, text), canvas, axis(time(video.bins[0][1], video.bins[0][0]), end)];
    if (video.video) parts.push(make("p", {}, make("a", { href: video.video }, `Video with detections: ${video.id}`)));
    if (video.tracks.length) {
      const rows = video.tracks.map(([track, index, [f1, t1], [f2, t2], n]) => [`#${track}`, classes[index].name, time(t1, f1), time(t2, f2), grouped(n)]);
      const list = table(`Tracks of ${video.id}`, ["Track", "Class", "#From", "#To", "#Frames"], rows);
      parts.push(make("details", {}, make("summary", {}, plural(rows.length, "track")), list));
    }
    $("#videos").append(make("article", {}, ...parts));
    drawn.push([canvas, video]);
  }
  $("#videos").hidden = $('nav a[href="#videos"]').hidden = !data.videos.length;
  return (isShown) => drawn.forEach(([canvas, video]) => drawTimeline(canvas, video, classes, isShown));
}
