"""Generated scenes of circles, squares and triangles with exact instance masks.

    python examples/shapes/scenes.py --seed 2026 --scenes 8 OUTDIR

writes JPEGs and a COCO ``annotations.json``. A scene is a function of (seed, index) alone.
"""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

CLASS_NAMES = ("circle", "square", "triangle")
MIN_VISIBLE = 0.6  # share of a shape that other shapes and the image border leave visible
_FILLS = ("flat", "linear", "radial", "noise", "stripes")
_BACKGROUNDS = (*_FILLS, "checker", "clouds", "clutter")


class Annotation(NamedTuple):
    """One shape of a scene.

    Attributes:
        class_name: one of ``CLASS_NAMES``.
        mask: bool (H, W), the visible part; a pixel belongs to the shape that covers its center.
        box: float32 (4,), XYXY_ABS px, the tight box of ``mask``.
        visible: visible share of the whole shape, (0, 1].
    """

    class_name: str
    mask: np.ndarray
    box: np.ndarray
    visible: float


def generate(seed: int, index: int) -> tuple[np.ndarray, list[Annotation]]:
    """Generates one scene.

    Args:
        seed: the seed of the dataset.
        index: the number of the scene, from 0.

    Returns:
        The image, uint8 (H, W, 3) BGR, sides 160 to 400 px, and its 1 to 8 shapes.
    """
    jpeg, annotations = generate_jpeg(seed, index)
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR), annotations


def generate_jpeg(seed: int, index: int) -> tuple[bytes, list[Annotation]]:
    """Generates one scene, with the image as the bytes of a JPEG file."""
    rng = np.random.default_rng([seed, index])
    height, width = (int(side) for side in rng.integers(160, 401, 2))
    canvas = _background(rng, height, width)
    annotations = _draw_shapes(rng, canvas)
    return _camera(rng, canvas), annotations


def write(seed: int, scenes: int, out_dir: Path) -> Path:
    """Writes scenes 0 to ``scenes - 1`` as JPEGs with a COCO ``annotations.json``; returns it."""
    from pycocotools import mask as coco_mask

    out_dir.mkdir(parents=True, exist_ok=True)
    images, records = [], []
    for index in range(scenes):
        jpeg, annotations = generate_jpeg(seed, index)
        name = f"scene_{seed}_{index:04d}.jpg"
        (out_dir / name).write_bytes(jpeg)
        height, width = annotations[0].mask.shape
        images.append({"id": index + 1, "file_name": name, "height": height, "width": width})
        for shape in annotations:
            rle = coco_mask.encode(np.asfortranarray(shape.mask, np.uint8))
            x1, y1, x2, y2 = shape.box.tolist()
            records.append(
                {
                    "id": len(records) + 1,
                    "image_id": index + 1,
                    "category_id": CLASS_NAMES.index(shape.class_name) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": int(shape.mask.sum()),
                    "segmentation": {"size": [height, width], "counts": rle["counts"].decode()},
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i, "name": name} for i, name in enumerate(CLASS_NAMES, start=1)]
    coco = {
        "info": {"description": f"generated shapes, seed {seed}"},
        "images": images,
        "annotations": records,
        "categories": categories,
    }
    path = out_dir / "annotations.json"
    path.write_text(json.dumps(coco))
    return path


def _draw_shapes(rng: np.random.Generator, canvas: np.ndarray) -> list[Annotation]:
    """Paints shapes onto ``canvas``, float32 (H, W, 3) BGR in [0, 255], in place."""
    height, width = canvas.shape[:2]
    wanted = int(rng.integers(1, 9))
    classes: list[str] = []
    areas = np.zeros(0)  # px of the whole shape, including hidden and outside parts
    masks = np.zeros((0, height, width), bool)
    for _ in range(50):  # placements tried
        if len(classes) == wanted:
            break
        kind = CLASS_NAMES[rng.integers(len(CLASS_NAMES))]
        size = np.exp(rng.uniform(np.log(12), np.log(min(110, 0.45 * min(height, width)))))
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        left, top, distance = _distance(rng, kind, x, y, size)
        inside = distance < 0
        mask = np.zeros((height, width), bool)
        window, part = _clip(left, top, distance.shape, height, width)
        mask[window] = inside[part]
        left_over = (masks & ~mask).sum((1, 2))
        if mask.sum() < MIN_VISIBLE * inside.sum() or np.any(left_over < MIN_VISIBLE * areas):
            continue
        masks = np.concatenate([masks & ~mask, mask[None]])
        classes.append(kind)
        areas = np.append(areas, inside.sum())
        _paint(rng, canvas[window], distance[part], size)
    return [
        Annotation(kind, mask, _tight_box(mask), float(mask.sum() / area))
        for kind, mask, area in zip(classes, masks, areas, strict=True)
    ]


def _distance(
    rng: np.random.Generator, kind: str, x: float, y: float, size: float
) -> tuple[int, int, np.ndarray]:
    """Signed distance to a shape's outline, negative inside, at the pixel centers around it.

    Args:
        kind: one of ``CLASS_NAMES``.
        x, y: the shape's center, px.
        size: about its diameter, px; the rotation is drawn from ``rng``.

    Returns:
        The window's left and top, px (may be outside the image), and float32 (h, w) px.
    """
    reach = int(0.7 * size) + 2
    left, top = int(x) - reach, int(y) - reach
    dx = np.arange(left, left + 2 * reach + 1, dtype=np.float32) + np.float32(0.5 - x)
    dy = np.arange(top, top + 2 * reach + 1, dtype=np.float32)[:, None] + np.float32(0.5 - y)
    if kind == "circle":
        return left, top, np.hypot(dx, dy) - np.float32(size / 2)
    corners = 4 if kind == "square" else 3
    angles = 2 * np.pi * np.arange(corners) / corners + rng.uniform(0, 2 * np.pi)
    if kind == "triangle":
        angles += rng.uniform(-0.25, 0.25, 3)
    points = 0.63 * size * np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    edges = np.roll(points, -1, 0) - points
    normals = np.stack([edges[:, 1], -edges[:, 0]], 1) / np.linalg.norm(edges, axis=1)[:, None]
    offsets = (normals * points).sum(1)
    planes = [nx * dx + ny * dy - o for (nx, ny), o in zip(normals, offsets, strict=True)]
    return left, top, np.maximum.reduce(planes)


def _clip(
    left: int, top: int, shape: tuple[int, ...], height: int, width: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Slices of the image, and of a window of ``shape`` at (left, top), that coincide."""
    x1, y1 = max(left, 0), max(top, 0)
    x2, y2 = min(left + shape[1], width), min(top + shape[0], height)
    return (slice(y1, y2), slice(x1, x2)), (slice(y1 - top, y2 - top), slice(x1 - left, x2 - left))


def _tight_box(mask: np.ndarray) -> np.ndarray:
    """float32 (4,) XYXY_ABS px of bool (H, W)."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)


def _paint(rng: np.random.Generator, view: np.ndarray, distance: np.ndarray, size: float) -> None:
    """Fills one shape, anti-aliased, in place; ``view`` is float32 (h, w, 3)."""
    under = view[distance < 1][:: max(1, distance.size // 400)]
    color = _contrasting(rng, under)
    second = np.clip(color + rng.uniform(-50, 50, 3), 0, 255).astype(np.float32)
    fill = "flat" if rng.random() < 0.4 else _FILLS[rng.integers(len(_FILLS))]
    paint = _blend(color, second, _field(rng, fill, *distance.shape))
    if rng.random() < 0.3:
        rim = distance + np.float32(rng.uniform(1, max(1.5, size / 10)))  # rim width, px
        paint += _coverage(-rim) * (_contrasting(rng, under) - paint)
    view += _coverage(distance) * (paint - view)


def _contrasting(rng: np.random.Generator, under: np.ndarray) -> np.ndarray:
    """A float32 (3,) color that contrasts with most of the colors below it, float32 (n, 3)."""
    colors = rng.uniform(0, 255, (8, 1, 3)).astype(np.float32)
    contrasts = np.quantile(np.abs(colors - under).max(2), 0.2, axis=1)
    return colors[np.argmax(contrasts > 50) if contrasts.max() > 50 else contrasts.argmax(), 0]


def _coverage(distance: np.ndarray) -> np.ndarray:
    """Share of each pixel inside an outline: float32 (h, w, 1) of signed distances in px."""
    return np.clip(0.5 - distance, 0, 1)[..., None]


def _blend(first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return first + weight[..., None] * (second - first)


def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A float32 (H, W, 3) BGR canvas in [0, 255]: two colors mixed by a pattern, then shaded."""
    first, other = rng.uniform(0, 255, (2, 3)).astype(np.float32)
    second = first + np.float32(rng.uniform(0.2, 0.8)) * (other - first)
    kind = _BACKGROUNDS[rng.integers(len(_BACKGROUNDS))]
    canvas = _blend(first, second, _field(rng, kind, height, width))
    if rng.random() < 0.5:
        canvas *= np.float32(1) - np.float32(0.5) * _field(rng, "linear", height, width)[..., None]
    return canvas


def _field(rng: np.random.Generator, kind: str, height: int, width: int) -> np.ndarray:
    """A pattern: float32 (H, W) in [0, 1]."""
    if kind == "flat":
        return np.zeros((height, width), np.float32)
    if kind == "noise":
        return _noise(rng, height, width, rng.uniform(1, 4))
    if kind == "clouds":
        return sum(_noise(rng, height, width, cell) * cell / 112 for cell in (64, 32, 16))
    if kind == "clutter":
        return _clutter(rng, height, width)
    x = np.arange(width, dtype=np.float32) - np.float32(rng.uniform(0, width))
    y = np.arange(height, dtype=np.float32)[:, None] - np.float32(rng.uniform(0, height))
    if kind == "radial":
        distance = np.hypot(x, y)
        return distance / distance.max()
    angle, frequency = rng.uniform(0, np.pi), 2 * np.pi / rng.uniform(6, 60)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    along = cos * x + sin * y
    if kind == "linear":
        return (along - along.min()) / np.ptp(along)
    wave = np.sin(np.float32(frequency) * along)
    if kind == "checker":
        wave *= np.sin(np.float32(frequency) * (cos * y - sin * x))
    return np.clip(0.5 + np.float32(rng.uniform(0.5, 4)) * wave, 0, 1)  # soft to sharp edges


def _noise(rng: np.random.Generator, height: int, width: int, cell: float) -> np.ndarray:
    """Smooth noise with a grain of ``cell`` px: float32 (H, W) in [0, 1]."""
    coarse = rng.random((int(height / cell) + 2, int(width / cell) + 2), dtype=np.float32)
    return np.clip(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), 0, 1)


def _clutter(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Lines and arcs, which are not shapes: float32 (H, W) in [0, 1]."""
    field = np.zeros((height, width), np.uint8)
    for _ in range(rng.integers(4, 16)):
        x1, y1, x2, y2 = (int(v) for v in rng.uniform(0, [width, height, width, height]))
        thickness, level = int(rng.integers(1, 5)), int(rng.integers(80, 256))
        if rng.random() < 0.5:
            cv2.line(field, (x1, y1), (x2, y2), level, thickness, cv2.LINE_AA)
        else:
            axes, turn = (abs(x2 - x1) // 2 + 4, abs(y2 - y1) // 2 + 4), float(rng.uniform(0, 360))
            cv2.ellipse(field, (x1, y1), axes, turn, 0, 150, level, thickness, cv2.LINE_AA)
    return field.astype(np.float32) / 255


def _camera(rng: np.random.Generator, canvas: np.ndarray) -> bytes:
    """Blur, sensor noise and JPEG compression of a float32 (H, W, 3) canvas."""
    if rng.random() < 0.6:
        canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.3, 1.2))
    channels = 3 if rng.random() < 0.5 else 1
    noise = rng.standard_normal((*canvas.shape[:2], channels), np.float32)
    image = np.clip(canvas + np.float32(rng.uniform(0, 10)) * noise, 0, 255).astype(np.uint8)
    quality = int(rng.integers(40, 96))
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out_dir", type=Path, metavar="OUTDIR")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--scenes", type=int, default=8)
    args = parser.parse_args()
    print(write(args.seed, args.scenes, args.out_dir))


if __name__ == "__main__":
    main()
