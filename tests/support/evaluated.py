"""A ground truth with crowds, masks and keypoints, and a run directory with similar detections."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

HEIGHT, WIDTH = 200, 300
NAMES = ("circle", "square", "triangle")


def rle(x: float, y: float, w: float, h: float) -> dict[str, Any]:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    mask[max(round(y), 0) : round(y + h), max(round(x), 0) : round(x + w)] = 1
    found = coco_mask.encode(mask)
    return {"size": list(found["size"]), "counts": found["counts"].decode()}


def keypoints(rng: np.random.Generator, box: list[float], noise: float) -> np.ndarray:
    grid = np.linspace(0, 1, 17)[:, None] * np.array(box[2:]) + np.array(box[:2])
    return grid + rng.normal(0, noise, grid.shape)


def make(
    directory: Path,
    *,
    n_images: int = 60,
    seed: int = 0,
    found: float = 0.9,
    with_keypoints: bool = False,
    config: dict[str, Any] | None = None,
) -> tuple[Path, Path]:
    """Write a ground truth and a run; return their paths.

    Ids of images and categories have gaps, and the images are in no order.
    """
    rng, detected = np.random.default_rng(7), np.random.default_rng(seed)
    images, annotations, records = [], [], []
    for i in range(n_images):
        image = {"id": 1000 - 7 * i, "file_name": f"sub/{i}.jpg", "width": WIDTH, "height": HEIGHT}
        images.append(image)
        instances = []
        for _ in range(rng.integers(0, 7)):
            w, h = rng.uniform(6, 120, 2)
            box = [*rng.uniform((0, 0), (WIDTH - w, HEIGHT - h)), w, h]
            kind = int(rng.integers(0, 3))
            crowd = int(rng.random() < 0.1)
            annotation = {
                "id": len(annotations), "image_id": image["id"], "category_id": 10 * (kind + 1),
                "bbox": box, "area": w * h * 0.9, "iscrowd": crowd, "segmentation": rle(*box),
            }  # fmt: skip
            if with_keypoints:
                points = np.c_[keypoints(rng, box, 0), rng.integers(0, 3, 17)]
                annotation["keypoints"] = points.ravel().tolist()
                annotation["num_keypoints"] = int((points[:, 2] > 0).sum())
            annotations.append(annotation)
            if detected.random() < found:
                for _ in range(detected.integers(1, 4 if crowd else 3)):
                    near = (np.array(box) + detected.normal(0, 4, 4)).tolist()
                    near[2:] = [max(near[2], 3), max(near[3], 3)]
                    other = int(detected.integers(0, 3))
                    right = detected.random() < 0.8
                    instances.append(instance(detected, near, kind if right else other))
                    if with_keypoints:
                        points = keypoints(detected, near, 2)
                        scored = np.c_[points, detected.random(17)].astype(np.float32)
                        instances[-1]["keypoints"] = short(scored)
        records.append(
            {"asset": image["file_name"], "frame": 0, "time_s": None, "width": WIDTH,
             "height": HEIGHT, "image_id": i + 1, "instances": instances}
        )  # fmt: skip
    truth = directory / "annotations.json"
    categories = [{"id": 10 * (i + 1), "name": name} for i, name in enumerate(NAMES)]
    directory.mkdir(parents=True, exist_ok=True)
    truth.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return truth, write_run(directory / "run", records, config)


def instance(rng: np.random.Generator, box: list[float], kind: int) -> dict[str, Any]:
    x, y, w, h = box
    score = np.float32(round(float(rng.random()), 2))  # some are equal
    return {
        "box": short(np.array([x, y, x + w, y + h], np.float32)), "score": float(str(score)),
        "class_id": kind, "class_name": NAMES[kind], "mask": rle(x, y, w, h),
    }  # fmt: skip


def short(values: np.ndarray) -> Any:
    texts = [float(str(value)) for value in values.ravel()]
    return np.array(texts).reshape(values.shape).tolist()


def write_run(
    directory: Path, records: list[dict[str, Any]], config: dict[str, Any] | None = None
) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "predictions.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    run = {"state": "ended", "config": config or {}, "model": {"class_names": list(NAMES)}}
    (directory / "run.json").write_text(json.dumps(run))
    return directory


def records_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
