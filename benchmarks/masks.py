"""Mask RLE and overlays, compared with paste + pycocotools and Visualizer.

    uv run python benchmarks/masks.py [--json FILE]

Both sides run alternately in this process. Times are printed only if the RLE is byte-identical.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import report
import torch
from detectron2.data import MetadataCatalog
from detectron2.layers.mask_ops import paste_masks_in_image
from detectron2.structures import Boxes, Instances
from detectron2.utils.visualizer import Visualizer
from pycocotools import mask as coco_mask

from pipeline.masks import InstanceMasks
from pipeline.records import Predictions
from pipeline.runnables.steps.paste import paste_masks
from pipeline.sinks.drawing import Painter

_SIZES = ((480, 640), (1080, 1920), (3000, 4000))
_NAMES = tuple(f"thing_{i}" for i in range(80))
Size = tuple[int, int]


def heads(n: int, size: Size) -> tuple[torch.Tensor, torch.Tensor]:
    """Return synthetic outputs of a mask head: blobs in boxes of 5 to 50 % of the frame's sides.

    Returns:
        Probabilities float32 ``(N, 1, 28, 28)`` and boxes float32 ``(N, 4)``.
    """
    rng = np.random.default_rng(0)
    frame = np.array(size[::-1])
    sides = np.exp(rng.uniform(np.log(0.05), np.log(0.5), (n, 2))) * frame
    corners = rng.uniform(0, 1, (n, 2)) * (frame - sides)
    noise = torch.from_numpy(rng.random((n, 1, 7, 7), np.float32))
    noise = torch.nn.functional.interpolate(noise, (28, 28), mode="bicubic")
    middle = 1.3 - 1.2 * np.hypot(*np.mgrid[-1:1:28j, -1:1:28j])
    blobs = 0.6 * noise + 0.5 * torch.from_numpy(middle).float().clamp(-1, 1)
    boxes = torch.from_numpy(np.hstack([corners, corners + sides])).float()
    return blobs.clamp(0, 1), boxes


def alternately(pairs: int, ours: Callable[[], Any], theirs: Callable[[], Any]) -> dict[str, Any]:
    """Time two functions in turn."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(pairs):
        for work, taken in zip((ours, theirs), seconds, strict=True):
            started = perf_counter()
            work()
            taken.append(perf_counter() - started)
    return {"d2run_s": seconds[0], "peer_s": seconds[1], "ratio": report.ratios(*seconds)}


def rle(n: int, size: Size, pairs: int) -> dict[str, Any]:
    """From a mask head's output to COCO's RLE.

    Raises:
        SystemExit: The RLE is not that of pycocotools.
    """
    probs, boxes = heads(n, size)

    def ours() -> list[str]:
        return [rle["counts"] for rle in paste_masks(probs, boxes, size).rle()]

    def theirs() -> list[str]:
        bitmaps = paste_masks_in_image(probs[:, 0], boxes, size, threshold=0.5)
        encoded = [coco_mask.encode(np.asfortranarray(bitmap)) for bitmap in bitmaps.numpy()]
        return [rle["counts"].decode() for rle in encoded]

    if ours() != theirs():
        sys.exit(f"error: the RLE of {n} masks at {size[1]}x{size[0]} is not that of pycocotools")
    return alternately(pairs, ours, theirs)


def overlay(n: int, size: Size, pairs: int) -> dict[str, Any]:
    """From predictions to an image with masks, boxes and labels."""
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (27, 48, 3), np.uint8), size[::-1])
    probs, boxes = heads(n, size)
    masks: InstanceMasks = paste_masks(probs, boxes, size)
    scores, classes = rng.random(n, np.float32), rng.integers(0, len(_NAMES), n)
    predictions = Predictions(size, _NAMES, boxes.numpy(), scores, classes, masks)
    instances = Instances(
        size,
        pred_boxes=Boxes(boxes),
        scores=torch.from_numpy(scores),
        pred_classes=torch.from_numpy(classes),
        pred_masks=torch.from_numpy(masks.dense()),
    )
    metadata = MetadataCatalog.get("bench_masks").set(thing_classes=list(_NAMES))
    painter = Painter()

    def theirs() -> np.ndarray:
        drawn = Visualizer(image[:, :, ::-1], metadata).draw_instance_predictions(instances)
        return drawn.get_image()[:, :, ::-1]

    theirs()  # matplotlib searches for fonts the first time
    return alternately(pairs, lambda: painter.draw(image, predictions), theirs)


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=report.at_least_one, default=5)
    parser.add_argument(
        "--masks", type=report.at_least_one, default=100, help="masks of a frame for the RLE"
    )
    parser.add_argument(
        "--drawn", type=report.at_least_one, default=20, help="instances of the 1080p overlay"
    )
    parser.add_argument("--json", type=report.new_file, metavar="FILE")
    args = parser.parse_args()
    found = {}
    for height, width in _SIZES:
        name = f"RLE of {args.masks} masks, {width}x{height}"
        found[name] = rle(args.masks, (height, width), args.pairs)
    name = f"overlay of {args.drawn} instances, 1920x1080"
    found[name] = overlay(args.drawn, (1080, 1920), args.pairs)
    rows = [
        [
            name,
            report.shown(report.spread(each["d2run_s"]), 4),
            report.shown(report.spread(each["peer_s"]), 4),
            report.shown(each["ratio"], 1, "x"),
        ]
        for name, each in found.items()
    ]
    columns = ["what", "d2run, s", "Detectron2 and pycocotools, s", "faster"]
    report.table("The RLE is byte-identical", columns, rows)
    report.save(args.json, {"machine": report.machine(), "pairs": args.pairs, "results": found})


if __name__ == "__main__":
    main()
