// The full-size view of one image.

import { css, draw, scoreText } from "./drawing.js";
import { $, make, plural } from "./elements.js";
import { load } from "./scene.js";

const MAX_ZOOM = 16;
const MAX_UPSCALE = 8; // of the image's own pixels, before zooming

export class Viewer {
  /**
   * @param scene what is shown
   * @param context `items(item)` returns the images in their order; `beside(item, step)`, if there
   *   are several results of the same image, the next (1) or the previous one (-1)
   */
  constructor(scene, context) {
    this.scene = scene;
    this.context = context;
    this.item = null;
    this.active = null;
    this.zoom = 1;
    this.scale = 1;
    const dialog = $("#viewer");
    dialog.addEventListener("keydown", (event) => this.press(event));
    dialog.addEventListener("click", (event) => this.act(event.target.dataset.action));
    dialog.addEventListener("close", () => this.closed());
    const canvas = $("#stage canvas");
    canvas.addEventListener("mousemove", (event) => this.highlight(this.under(event)));
    canvas.addEventListener("mouseleave", () => this.highlight(null));
    new ResizeObserver(() => this.redraw()).observe($("#stage"));
  }

  /** Show an image; `opener` gets the focus back. */
  async open(item, opener) {
    if (opener) this.opener = opener;
    const isSameImage = this.item?.bitmap === item.bitmap; // compared at the same zoom
    [this.item, this.active, this.zoom] = [item, null, isSameImage ? this.zoom : 1];
    if (!isSameImage) this.pixels = null;
    if (!$("#viewer").open) $("#viewer").showModal();
    const items = this.context.items(item);
    const at = items.indexOf(item);
    $("#viewer-title").textContent = `${item.label} (${at + 1} of ${items.length})`;
    $('[data-action="previous"]').disabled = at <= 0;
    $('[data-action="next"]').disabled = at < 0 || at >= items.length - 1;
    for (const [action, step] of this.context.beside ? [["up", -1], ["down", 1]] : []) {
      const button = $(`[data-action="${action}"]`);
      button.hidden = false;
      button.disabled = !this.context.beside(item, step);
    }
    // a button that gets disabled loses the focus, and keys would be lost with it
    if (document.activeElement === document.body || document.activeElement.disabled) $("#stage").focus();
    this.scene.prepare(item);
    this.showTable();
    const pixels = await load(item);
    if (this.item !== item) return;
    this.pixels = pixels;
    this.redraw();
  }

  closed() {
    this.item = null;
    this.opener?.focus();
  }

  press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const action = { ArrowLeft: "previous", ArrowRight: "next", ArrowUp: "up", ArrowDown: "down", "+": "in", "=": "in", "-": "out" }[event.key];
    if (!action || ((action === "up" || action === "down") && !this.context.beside)) return;
    event.preventDefault();
    this.act(action);
  }

  act(action) {
    if (action === "close") return $("#viewer").close();
    if (action === "in" || action === "out") {
      this.zoom = Math.max(1, Math.min(MAX_ZOOM, this.zoom * (action === "in" ? 1.5 : 1 / 1.5)));
      return this.redraw();
    }
    if (action === "up" || action === "down") {
      const other = this.context.beside(this.item, action === "down" ? 1 : -1);
      if (other) this.open(other);
      return;
    }
    if (action !== "previous" && action !== "next") return;
    const items = this.context.items(this.item);
    const next = items[items.indexOf(this.item) + (action === "next" ? 1 : -1)];
    if (next) this.open(next);
  }

  showTable() {
    const { item } = this;
    const shown = this.scene.visible(item);
    const rows = shown.map((one) => {
      const [x1, y1, x2, y2] = one.box;
      const size = one.box.includes(null) ? "–" : `${Math.round(x2 - x1)} × ${Math.round(y2 - y1)}`;
      const swatch = make("span", { className: "swatch" });
      swatch.style.backgroundColor = css(one.color);
      const track = one.trackId >= 0 ? `#${one.trackId} ` : "";
      const cells = [make("td", {}, swatch, track + one.className), make("td", { className: "number" }, scoreText(one.score)), make("td", { className: "number" }, size)];
      one.row = make("tr", {}, ...cells);
      one.row.addEventListener("mouseenter", () => this.highlight(one));
      one.row.addEventListener("mouseleave", () => this.highlight(null));
      return one.row;
    });
    $("#panel tbody").replaceChildren(...rows);
    const count = `${shown.length} of ${plural(item.detections.length, "detection")}`;
    const stuff = [...new Set(this.scene.visibleRegions(item).map((one) => one.className))].join(", ");
    const note = [`${item.size[0]} × ${item.size[1]} px, ${count}${stuff ? `; ${stuff}` : ""}.`];
    if (!item.bitmap.src) note.push(" The image could not be read, so only the detections are drawn.");
    if (item.overlay) note.push(" ", make("a", { href: item.overlay }, "Drawn image in full size"));
    $("#view-note").replaceChildren(...note);
    $("#stage canvas").setAttribute("aria-label", `${item.label}: ${count}`);
  }

  redraw() {
    if (!this.item || !$("#viewer").open) return;
    const stage = $("#stage");
    const [w, h] = this.item.size;
    const fit = Math.min(stage.clientWidth / w, stage.clientHeight / h, MAX_UPSCALE);
    if (!(fit > 0)) return;
    const middle = [(stage.scrollLeft + stage.clientWidth / 2) / this.scale, (stage.scrollTop + stage.clientHeight / 2) / this.scale];
    const isZoomed = this.zoom > 1;
    this.scale = fit * this.zoom;
    // browsers have a largest canvas
    const limit = 8192 / Math.max(w, h) / (window.devicePixelRatio || 1);
    this.scale = Math.min(this.scale, Math.max(limit, fit));
    draw($("#stage canvas"), {
      background: this.pixels,
      detections: this.scene.visible(this.item),
      regions: this.scene.visibleRegions(this.item),
      active: this.active,
      width: Math.max(1, Math.floor(w * this.scale)),
      height: Math.max(1, Math.floor(h * this.scale)),
      scale: this.scale,
      skeleton: this.item.skeleton,
    });
    if (isZoomed) {
      stage.scrollLeft = middle[0] * this.scale - stage.clientWidth / 2;
      stage.scrollTop = middle[1] * this.scale - stage.clientHeight / 2;
    }
  }

  highlight(detection) {
    if (this.active === detection) return;
    this.active?.row?.classList.remove("active");
    this.active = detection;
    detection?.row?.classList.add("active");
    this.redraw();
  }

  /** The smallest detection under the pointer. */
  under(event) {
    const [x, y] = [event.offsetX / this.scale, event.offsetY / this.scale];
    const area = ({ box: [x1, y1, x2, y2] }) => (x2 - x1) * (y2 - y1);
    const hits = this.scene.visible(this.item).filter(({ box: [x1, y1, x2, y2] }) => x1 <= x && x <= x2 && y1 <= y && y <= y2);
    return hits.sort((a, b) => area(a) - area(b))[0] ?? null;
  }
}
