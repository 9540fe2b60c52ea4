// Draws detections as the sink `overlay` does: the same colors, outlines and places of labels.

const MIN_KEYPOINT_SCORE = 0.05;
const MASK_OPACITY = 0.45;
const MAX_HIDDEN = 0.3; // share of an object's box that all labels together may cover
const MAX_NAME_LENGTH = 32;

// ---------------------------------------------------------------- colors

/** The color of a class, [red, green, blue] in 0..255; that of the sink `overlay`. */
export const classColor = (id) => hsv(0.02, id, 0.9);

/** The color of a class of stuff. */
export const stuffColor = (id) => hsv(0.32, id, 0.45);

function hsv(first, id, saturation) {
  const hue = (((first + id * 0.381966) % 1) + 1) % 1;
  const value = [0.95, 0.75, 0.85][id % 3] ?? 0.95;
  const channel = (n) => {
    const k = (n + hue * 6) % 6;
    return Math.round(255 * value * (1 - saturation * Math.max(0, Math.min(k, 4 - k, 1))));
  };
  return [channel(5), channel(3), channel(1)];
}

export const css = ([red, green, blue]) => `rgb(${red}, ${green}, ${blue})`;

/** Black or white, whichever is easier to read on a background. */
function textColor([red, green, blue]) {
  return 0.299 * red + 0.587 * green + 0.114 * blue < 140 ? "#fff" : "#000";
}

// ---------------------------------------------------------------- masks

/** Return the lengths of the runs in COCO's compressed RLE: outside, inside, outside, ... */
export function runLengths(counts) {
  const lengths = [];
  for (let i = 0; i < counts.length; ) {
    let value = 0;
    let shift = 0;
    let bits;
    do {
      bits = counts.charCodeAt(i++) - 48;
      value |= (bits & 0x1f) << shift;
      shift += 5;
    } while (bits & 0x20);
    if (bits & 0x10 && shift < 32) value |= -1 << shift;
    lengths.push(lengths.length > 2 ? value + lengths[lengths.length - 2] : value);
  }
  return lengths;
}

/**
 * Return the outline of a mask as a path in pixels of the image, and its area.
 *
 * The path joins the middles of the pixel edges between inside and outside, so straight edges stay
 * exact and staircases become diagonals. Holes are paths of their own: fill with "evenodd".
 */
export function outline({ size: [height, width], counts }) {
  const runs = []; // [start, end) in column-major order
  let position = 0;
  let area = 0;
  let first = width;
  let last = -1;
  runLengths(counts).forEach((length, i) => {
    if (i % 2 && length) {
      runs.push([position, position + length]);
      area += length;
      first = Math.min(first, Math.floor(position / height));
      last = Math.max(last, Math.floor((position + length - 1) / height));
    }
    position += length;
  });
  const path = new Path2D();
  if (!area) return { path, area };

  // the columns with pixels and a border of one pixel, column by column
  const h = height + 2;
  const w = last - first + 3;
  const inside = new Uint8Array(w * h);
  for (const [start, end] of runs) {
    for (let at = start; at < end; ) {
      const column = Math.floor(at / height);
      const stop = Math.min(end, (column + 1) * height);
      const offset = (column - first + 1) * h + 1 - column * height;
      inside.fill(1, offset + at, offset + stop);
      at = stop;
    }
  }

  // Edges that leave each corner of the grid, one bit per direction, with the inside to the right.
  const [RIGHT, DOWN, LEFT, UP] = [0, 1, 2, 3];
  const step = [h, 1, -h, -1];
  const leaving = new Uint8Array(w * h);
  for (const [start, end] of runs) {
    for (let at = start; at < end; at++) {
      const pixel = (Math.floor(at / height) - first + 1) * h + 1 + (at % height);
      if (!inside[pixel - 1]) leaving[pixel] |= 1 << RIGHT;
      if (!inside[pixel + h]) leaving[pixel + h] |= 1 << DOWN;
      if (!inside[pixel + 1]) leaving[pixel + h + 1] |= 1 << LEFT;
      if (!inside[pixel - h]) leaving[pixel + 1] |= 1 << UP;
    }
  }
  const middle = (corner, direction) => {
    const other = corner + step[direction];
    const x = (Math.floor(corner / h) + Math.floor(other / h)) / 2 + first - 1;
    return [x, ((corner % h) + (other % h)) / 2 - 1];
  };
  for (let start = 0; start < leaving.length; start++) {
    while (leaving[start]) {
      let corner = start;
      let direction = 31 - Math.clz32(leaving[start]);
      let previous = -1;
      let isNew = true;
      const add = (at, towards) => {
        const [x, y] = middle(at, towards);
        if (isNew) path.moveTo(x, y);
        else path.lineTo(x, y);
        isNew = false;
      };
      do {
        leaving[corner] &= ~(1 << direction);
        const next = corner + step[direction];
        // right, straight on, left: at a corner where two pixels touch, stay with the same one
        const turn = [1, 0, 3].map((by) => (direction + by) % 4).find((d) => leaving[next] & (1 << d));
        if (previous !== direction || turn !== direction) add(corner, direction);
        previous = direction;
        corner = next;
        direction = turn;
      } while (direction !== undefined);
      path.closePath();
    }
  }
  return { path, area };
}

// ---------------------------------------------------------------- labels

function labelText(detection) {
  let name = detection.className.split(/\s+/).join(" ").trim();
  if (name.length > MAX_NAME_LENGTH) name = `${name.slice(0, MAX_NAME_LENGTH - 2)}..`;
  const track = detection.trackId >= 0 ? `#${detection.trackId} ` : "";
  return `${track}${name} ${scoreText(detection.score)}`;
}

/** 0.99+ means 0.995 or more, because 1.00 would look certain. */
export function scoreText(score) {
  if (score === null) return "–";
  return score >= 0.995 ? "0.99+" : score.toFixed(2);
}

function overlap(a, b) {
  const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]);
  const height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  return width > 0 && height > 0 ? width * height : 0;
}

/** Return the place of each label, or nothing where it would hide too much. */
function placeLabels(anchors, sizes, objects, frameWidth, frameHeight) {
  const placed = [];
  const hidden = objects.map(() => 0);
  const areas = objects.map(([x1, y1, x2, y2]) => Math.max((x2 - x1) * (y2 - y1), 1));
  return anchors.map(([x1, y1, x2, y2], i) => {
    const [w, h] = sizes[i];
    const corners = [
      [x1, y1 - h], [x1, y2], [x2 - w, y1 - h], [x2 - w, y2], [x2, y1], [x1 - w, y1],
      [x1, y1], [x2 - w, y2 - h], [x2 - w, y1], [x1, y2 - h],
    ]; // above, below, beside, inside
    let best;
    corners.forEach(([left, top], preference) => {
      const x = Math.max(0, Math.min(Math.round(left), frameWidth - w));
      const y = Math.max(0, Math.min(Math.round(top), frameHeight - h));
      const spot = [x, y, x + w, y + h];
      if (placed.some((other) => overlap(spot, other))) return;
      const shares = objects.map((object, n) => overlap(spot, object) / areas[n]);
      if (shares.some((share, n) => hidden[n] + share > MAX_HIDDEN)) return;
      const cost = shares.reduce((a, b) => a + b, 0) + 0.02 * preference;
      if (!best || cost < best.cost) best = { spot, shares, cost };
    });
    if (!best) return undefined;
    best.shares.forEach((share, n) => (hidden[n] += share));
    placed.push(best.spot);
    return best.spot;
  });
}

function drawLabel(context, text, color, [left, top, right, bottom]) {
  context.fillStyle = css(color);
  context.beginPath();
  context.roundRect(left, top, right - left, bottom - top, 3);
  context.fill();
  context.fillStyle = textColor(color);
  context.fillText(text, left + 6, (top + bottom) / 2 + 0.5);
}

// ---------------------------------------------------------------- the scene

/**
 * Draw an image and detections.
 *
 * @param canvas its size becomes `width` x `height` CSS pixels
 * @param background what to draw below the detections, or nothing
 * @param detections those to draw, the highest score first
 * @param regions areas of stuff, below the detections: `{ color, mask }`
 * @param active the detection to highlight; the others are dimmed
 * @param labels whether to write class and score
 * @param scale CSS pixels per image pixel
 */
export function draw(canvas, options) {
  const { background, detections, regions = [], active, labels = true } = options;
  const { width, height, scale, skeleton } = options;
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  context.lineJoin = "round";
  if (background) {
    context.imageSmoothingEnabled = scale < 4;
    context.imageSmoothingQuality = "high";
    context.drawImage(background, 0, 0, width, height);
  } else {
    context.fillStyle = "#6b737c";
    context.fillRect(0, 0, width, height);
  }

  for (const { color, mask } of regions) {
    context.save();
    context.scale(scale, scale);
    context.fillStyle = context.strokeStyle = css(color);
    context.globalAlpha = MASK_OPACITY * (active ? 0.25 : 1);
    context.fill(mask.path, "evenodd");
    context.lineWidth = 1 / scale;
    context.stroke(mask.path);
    context.restore();
  }

  const corners = new Map();
  for (const each of detections) {
    if (each.box.includes(null)) continue;
    const limits = [width, height, width, height];
    corners.set(each, each.box.map((v, i) => Math.max(0, Math.min(v * scale, limits[i]))));
  }
  const shown = detections.filter((each) => corners.has(each));
  const boxArea = (each) => {
    const [x1, y1, x2, y2] = corners.get(each);
    return (x2 - x1) * (y2 - y1);
  };
  // small ones on top of large ones, the highlighted one on top of all
  const order = shown.toSorted((a, b) => (a === active) - (b === active) || boxArea(b) - boxArea(a));
  const opacity = (each) => (active && each !== active ? 0.25 : 1);

  for (const each of order.filter((one) => one.mask)) {
    context.save();
    context.scale(scale, scale);
    context.fillStyle = context.strokeStyle = css(each.color);
    context.globalAlpha = MASK_OPACITY * opacity(each);
    context.fill(each.mask.path, "evenodd");
    context.globalAlpha = opacity(each);
    context.lineWidth = (each === active ? 3 : 1.5) / scale;
    context.stroke(each.mask.path);
    context.restore();
  }
  for (const each of order) {
    const [x1, y1, x2, y2] = corners.get(each);
    const line = Math.min(x2 - x1, y2 - y1) < 20 ? 1 : 2;
    context.globalAlpha = opacity(each);
    for (const [style, extra] of [["rgb(0 0 0 / 45%)", 1.5], [css(each.color), 0]]) {
      context.strokeStyle = style;
      context.lineWidth = line + extra + (each === active ? 1 : 0);
      context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    }
  }
  for (const each of order.filter((one) => one.keypoints)) {
    context.globalAlpha = opacity(each);
    drawKeypoints(context, each, corners.get(each), skeleton, scale);
  }

  if (!labels) return;
  context.font = "600 13px system-ui, sans-serif";
  context.textBaseline = "middle";
  const first = active && corners.has(active) ? [active] : [];
  const labeled = [...first, ...shown.filter((each) => each !== active)];
  const texts = labeled.map(labelText);
  const places = placeLabels(
    labeled.map((each) => corners.get(each)),
    texts.map((text) => [Math.ceil(context.measureText(text).width) + 12, 20]),
    labeled.map((each) => corners.get(each)),
    width,
    height,
  );
  places.forEach((place, i) => {
    if (!place) return;
    context.globalAlpha = opacity(labeled[i]);
    drawLabel(context, texts[i], labeled[i].color, place);
  });
}

function drawKeypoints(context, { keypoints, color }, [x1, y1, x2, y2], skeleton, scale) {
  const side = Math.max(x2 - x1, y2 - y1);
  const limb = Math.max(1.5, Math.min(side / 110, 6));
  const joint = Math.max(2, Math.min(side / 75, 8));
  const isShown = ([x, y, score]) => x !== null && y !== null && score > MIN_KEYPOINT_SCORE;
  context.strokeStyle = css(color);
  context.lineWidth = limb;
  context.beginPath();
  for (const [a, b] of skeleton) {
    if (!keypoints[a] || !keypoints[b] || !isShown(keypoints[a]) || !isShown(keypoints[b])) continue;
    context.moveTo(keypoints[a][0] * scale, keypoints[a][1] * scale);
    context.lineTo(keypoints[b][0] * scale, keypoints[b][1] * scale);
  }
  context.stroke();
  context.fillStyle = "#fff";
  context.strokeStyle = "rgb(0 0 0 / 60%)";
  context.lineWidth = 1;
  for (const point of keypoints.filter(isShown)) {
    context.beginPath();
    context.arc(point[0] * scale, point[1] * scale, joint, 0, 2 * Math.PI);
    context.fill();
    context.stroke();
  }
}
