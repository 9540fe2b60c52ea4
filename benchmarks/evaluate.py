"""``runner=evaluate`` on 5,000 images, compared with pycocotools.

    uv run python benchmarks/evaluate.py [--images 5000] [--json FILE]

The data is synthetic, of the size of COCO's val2017: 80 classes, 7 instances per image, 1 % crowds,
boxes and masks. Prints the seconds of each library, and fails if a number differs.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import report
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from runners.evaluate.evaluation import Options, evaluated
from runners.evaluate.reading.results import read_results
from runners.evaluate.reading.truth import read_truth

_HEIGHT, _WIDTH = 480, 640
_NAMES = [f"class_{i}" for i in range(80)]
_PER_IMAGE, _EXTRA = 7, 20  # annotations; detections of nothing
_CROWDS, _FOUND, _CONFUSED = 0.01, 0.8, 0.1
_OPTIONS = Options(None, None, None, None, 0, 0)


def rle(x: float, y: float, w: float, h: float) -> dict[str, Any]:
    """Return an ellipse in a box as compressed RLE."""
    rows, columns = np.ogrid[:_HEIGHT, :_WIDTH]
    inside = ((columns - x - w / 2) / (w / 2)) ** 2 + ((rows - y - h / 2) / (h / 2)) ** 2 <= 1
    found = coco_mask.encode(np.asfortranarray(inside, np.uint8))
    return {"size": [_HEIGHT, _WIDTH], "counts": found["counts"].decode()}


def write(directory: Path, n_images: int) -> tuple[Path, Path]:
    """Write a ground truth and a run directory; return their paths."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    run = directory / "run"
    run.mkdir()
    with (run / "predictions.jsonl").open("w") as file:
        for i in range(n_images):
            image = {"id": i + 1, "file_name": f"{i}.jpg", "width": _WIDTH, "height": _HEIGHT}
            images.append(image)
            instances = []
            for k in range(_PER_IMAGE + _EXTRA):
                w, h = np.exp(rng.uniform(np.log(8), np.log(300), 2))
                box = np.array([*rng.uniform((0, 0), (_WIDTH - w, _HEIGHT - h)), w, h])
                kind = int(rng.integers(80))
                if k < _PER_IMAGE:
                    mask = rle(*box)
                    annotations.append(
                        {
                            "id": len(annotations) + 1, "image_id": i + 1, "category_id": kind + 1,
                            "bbox": box.tolist(), "segmentation": mask,
                            "area": float(coco_mask.area(mask)),
                            "iscrowd": int(rng.random() < _CROWDS),
                        }
                    )  # fmt: skip
                    if rng.random() > _FOUND:
                        continue
                    box = box + rng.normal(0, 0.05, 4) * np.array([w, h, w, h])
                    kind = int(rng.integers(80)) if rng.random() < _CONFUSED else kind
                score = rng.beta(5, 2) if k < _PER_IMAGE else rng.beta(1, 4)
                instances.append(_instance(box, kind, np.float32(score)))
            record = {
                "asset": image["file_name"], "frame": 0, "time_s": None, "width": _WIDTH,
                "height": _HEIGHT, "image_id": i + 1, "instances": instances,
            }  # fmt: skip
            file.write(json.dumps(record) + "\n")
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(_NAMES)]
    truth = directory / "annotations.json"
    content = {"images": images, "annotations": annotations, "categories": categories}
    truth.write_text(json.dumps(content))
    record = {"state": "ended", "config": {}, "model": {"class_names": _NAMES}}
    (run / "run.json").write_text(json.dumps(record))
    return truth, run


def _instance(box: np.ndarray, kind: int, score: np.float32) -> dict[str, Any]:
    x, y, w, h = box
    corners = np.array([x, y, x + w, y + h], np.float32)
    return {
        "box": [float(str(value)) for value in corners], "score": float(str(score)),
        "class_id": kind, "class_name": _NAMES[kind], "mask": rle(x, y, w, h),
    }  # fmt: skip


def measure(truth: Path, run: Path) -> dict[str, Any]:
    """Return seconds of both, and whether all of COCO's numbers are equal."""
    start = perf_counter()
    results, ground_truth = read_results(run, "run"), read_truth(truth)
    read_s = perf_counter() - start
    start = perf_counter()
    found = evaluated(results, ground_truth, _OPTIONS)
    ours_s = perf_counter() - start
    ids = {image["file_name"]: image["id"] for image in ground_truth.images}
    images = {i: ids[record["asset"]] for i, record in enumerate(results.records)}
    categories = {each["name"]: each["id"] for each in ground_truth.categories}
    given = list(results.detections(images, categories))
    measured: dict[str, Any] = {
        "images": len(images), "detections": len(given), "engine": found["engine"],
        "read_s": round(read_s, 2), "evaluate_s": round(ours_s, 2), "equal": True,
    }  # fmt: skip
    for kind, library_kind, key in (("box", "bbox", "bbox"), ("mask", "segm", "segmentation")):
        keys = ("image_id", "category_id", "score", key)
        with contextlib.redirect_stdout(io.StringIO()):
            start = perf_counter()
            coco = COCO(str(truth))
            given_here = [{name: each[name] for name in keys} for each in given]
            judge = COCOeval(coco, coco.loadRes(given_here), library_kind)
            judge.evaluate()
            judge.accumulate()
            judge.summarize()
            measured[f"pycocotools_{kind}_s"] = round(perf_counter() - start, 2)
        numbers = [value for name, value in found[kind].items() if name != "classes"]
        expected = [None if value == -1 else value for value in judge.stats.tolist()]
        measured["equal"] &= numbers == expected
        measured[f"{kind}_ap"] = found[kind]["AP"]
    return measured


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=report.at_least_one, default=5000)
    parser.add_argument("--json", type=report.new_file, metavar="FILE")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        found = measure(*write(Path(directory), args.images))
    rows = [[name, str(value)] for name, value in found.items()]
    report.table("runner=evaluate and pycocotools", ["what", ""], rows)
    report.save(args.json, {"machine": report.machine(), "results": found})
    if not found["equal"]:
        sys.exit("error: the numbers differ from pycocotools")


if __name__ == "__main__":
    main()
