// What is shown of the detections: by class, and by score. Both pages have the same controls.

import { classColor, css, outline, stuffColor } from "./drawing.js";
import { $, grouped, make } from "./elements.js";

/** Return the detections of an item: rows of class, score, box, mask, track and keypoints. */
const detection = (classes) => ([index, score, box, rle, trackId, keypoints]) => ({
  index, score, box, rle, trackId, keypoints: keypoints || null, className: classes[index].name, color: classes[index].color,
});

function scaled(rle, [width, height]) {
  const { path } = outline(rle);
  const [h, w] = rle.size;
  if (w === width && h === height) return { path };
  const larger = new Path2D();
  larger.addPath(path, new DOMMatrix().scale(width / w, height / h));
  return { path: larger };
}

async function decoded(src) {
  if (!src) return null;
  const image = new Image();
  image.src = src;
  try {
    await image.decode();
  } catch {
    return null;
  }
  return image;
}

/** The pixels of an item; items with the same `bitmap` share them. */
export const load = ({ bitmap }) => (bitmap.pixels ??= decoded(bitmap.src));

export class Scene {
  /**
   * @param things the names of the classes of instances; `stuff` of those of regions
   * @param onChange called at most once per frame, after the user has chosen something else
   */
  constructor(things, stuff, onChange) {
    this.classes = [
      ...things.map((name, i) => ({ name, color: classColor(i), isShown: true, isStuff: false })),
      ...stuff.map((name, i) => ({ name, color: stuffColor(i), isShown: true, isStuff: true })),
    ];
    this.threshold = 0;
    this.onChange = onChange;
    this.isScheduled = false;
    $("#threshold").addEventListener("input", (event) => {
      this.threshold = event.target.valueAsNumber;
      $("#threshold-row output").textContent = this.threshold.toFixed(2);
      this.change();
    });
  }

  change() {
    if (this.isScheduled) return;
    this.isScheduled = true;
    requestAnimationFrame(() => {
      this.isScheduled = false;
      this.onChange();
    });
  }

  /** Return the detections of an item from the page's data. */
  detections(rows) {
    return rows.map(detection(this.classes));
  }

  isShown = (index) => this.classes[index].isShown;
  isVisible = (one) => this.isShown(one.index) && (this.threshold === 0 || (one.score ?? 0) >= this.threshold);
  visible = (item) => item.detections.filter(this.isVisible);
  visibleRegions = (item) => (item.areas ?? []).filter((one) => this.isShown(one.index));
  isFiltered = () => this.classes.some((one) => !one.isShown);

  /** Make the masks of an item, once it is drawn. */
  prepare(item) {
    if (item.areas) return;
    for (const one of item.detections) one.mask = one.rle ? scaled(one.rle, item.size) : null;
    item.areas = item.regions.map(([index, rle]) => ({
      index, mask: scaled(rle, item.size), color: this.classes[index].color, className: this.classes[index].name,
    }));
  }

  /** Show the switches of the classes. `present` are their indices in order, `counts` a Map of numbers to show. */
  showClasses(present, counts) {
    const boxes = present.map((index) => {
      const one = this.classes[index];
      one.input = make("input", { type: "checkbox", checked: true });
      one.input.addEventListener("change", () => {
        one.isShown = one.input.checked;
        this.change();
      });
      const swatch = make("span", { className: "swatch" });
      swatch.style.backgroundColor = css(one.color);
      const n = counts.has(index) ? grouped(counts.get(index)) : "";
      return make("label", {}, one.input, swatch, one.name, make("small", {}, n));
    });
    const setAll = (value) => () => {
      for (const index of present) this.classes[index].isShown = this.classes[index].input.checked = value;
      this.change();
    };
    $("#all-classes").addEventListener("click", setAll(true));
    $("#no-class").addEventListener("click", setAll(false));
    $("#classes").replaceChildren(...boxes);
    $("#classes-row").hidden = !present.length;
  }
}
