// Draws the thumbnails that are on the screen.

import { draw } from "./drawing.js";
import { load } from "./scene.js";

const MAX_THUMBNAIL_SCALE = 3; // of the image's own pixels

export class Thumbnails {
  constructor(scene) {
    this.scene = scene;
    this.items = new Map(); // by frame
    this.onScreen = new Set();
    this.waiting = new Set();
    this.isDrawing = false;
    this.watcher = new IntersectionObserver((entries) => this.changed(entries), { rootMargin: "200px" });
  }

  /** Draw an item into a frame, an element whose first child is a canvas, whenever it is on the screen. */
  watch(frame, item) {
    this.items.set(frame, item);
    this.watcher.observe(frame);
  }

  unwatch(frame) {
    this.watcher.unobserve(frame);
    this.items.delete(frame);
    this.onScreen.delete(frame);
  }

  changed(entries) {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) {
        this.onScreen.add(target);
        this.redraw(target);
      } else this.onScreen.delete(target);
    }
  }

  redrawAll() {
    for (const frame of this.onScreen) this.redraw(frame);
  }

  /** Draw soon. Between two, the page answers to its user: masks take time to trace. */
  async redraw(frame) {
    this.waiting.add(frame);
    if (this.isDrawing) return;
    this.isDrawing = true;
    let until = 0;
    for (const next of this.waiting) {
      if (performance.now() > until) {
        await new Promise((resolve) => setTimeout(resolve));
        until = performance.now() + 12;
      }
      this.waiting.delete(next);
      if (this.onScreen.has(next)) await this.draw(next, this.items.get(next));
    }
    this.isDrawing = false;
  }

  async draw(frame, item) {
    this.scene.prepare(item);
    const background = await load(item);
    const [w, h] = item.size;
    const scale = Math.min(frame.clientWidth / w, frame.clientHeight / h, MAX_THUMBNAIL_SCALE);
    if (!(scale > 0)) return;
    draw(frame.firstChild, {
      background,
      detections: this.scene.visible(item),
      regions: this.scene.visibleRegions(item),
      labels: false,
      width: Math.max(1, Math.floor(w * scale)),
      height: Math.max(1, Math.floor(h * scale)),
      scale,
      skeleton: item.skeleton,
    });
  }
}
