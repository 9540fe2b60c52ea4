"""Steps of gpu.py that need the device, each in a separate process.

    python benchmarks/gpu_steps.py STEP ROWS DEVICE CASE [ARGUMENT...]

Each row is one line of JSON, which is appended to ROWS at once: a step that is stopped keeps its
rows.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from time import perf_counter
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

Row = dict[str, Any]
_NAIVE_IMAGES = 16
_DISTINCT_IMAGES = 48  # the rest are copies; resizing and encoding photographs takes long
_MB = 1e6


def check(device: str, case: Path) -> Iterator[Row]:
    """Import what the steps need, and name the device."""
    import cv2
    import skimage
    import torch
    from detectron2.modeling import build_model  # noqa: F401

    import run  # noqa: F401
    from pipeline.system.devices import device_name, resolve_device

    names = ("torch", "torchvision", "detectron2", "numpy")
    yield {
        "device": device_name(resolve_device(device)),
        "python": sys.version.split()[0],
        **{name: metadata.version(name) for name in names},
        "opencv": cv2.__version__,
        "skimage": skimage.__version__,
        "cuda": torch.version.cuda or "none",
    }


def case(device: str, case: Path, name: str, n_images: str) -> Iterator[Row]:
    """Write the model and the images."""
    from cases import CASES

    distinct = min(int(n_images), _DISTINCT_IMAGES)
    CASES[name].write(case, distinct)
    for i in range(distinct, int(n_images)):
        source = case / "images" / f"{i % distinct:05d}.jpg"
        source.with_name(f"{i:05d}.jpg").write_bytes(source.read_bytes())
    yield {"case": name, "images": int(n_images)}


def parity(device: str, case: Path, families: str) -> Iterator[Row]:
    """Compare each family with DefaultPredictor under the same TF32 setting."""
    import torch
    from random_model import ARCHITECTURES, PHOTOS, RandomModel, photo, reference

    from pipeline.records import Frame
    from pipeline.runnables.detectron2 import Detectron2

    images = [photo(name) for name in PHOTOS]
    for family in ARCHITECTURES if families == "all" else families.split(","):
        model = RandomModel(ARCHITECTURES[family])
        for tf32 in (True, False) if device.startswith("cuda") else (None,):
            if tf32 is not None:  # torch's defaults, and TF32 off
                torch.backends.cudnn.allow_tf32 = tf32
            row: Row = {"family": family, "tf32": tf32}
            want = reference(model, images, device)
            for mode, exact in (("exact", True), ("default", False)):
                try:
                    with Detectron2(model, device, exact=exact) as runnable:
                        got = runnable.predict([Frame(image, "x") for image in images])
                    row[mode] = _agreement(got, want, "exact" if exact else "fp32")
                    if not exact:
                        row["default, IoU 0.95"] = _agreement(got, want, "half")
                except Exception as exc:  # costs this family alone
                    row[mode] = f"{type(exc).__name__}: {exc}"
            yield row
        model.forget()


def _agreement(got: list[Any], want: list[Row], line: str) -> float:
    """Return the share of paired instances or of equal pixels, whichever is smaller."""
    import numpy as np
    from agreement import compare
    from pycocotools import mask as coco_mask

    ours, theirs, shares = {}, {}, [1.0]
    for i, (one, other) in enumerate(zip(got, want, strict=True)):
        if "instances" in other:
            found = other["instances"]
            ours[str(i)] = _instances(
                one.boxes, one.scores, one.classes, one.masks.rle() if one.masks else None
            )
            rle = None
            if found.has("pred_masks"):
                bitmaps = map(np.asfortranarray, found.pred_masks.numpy())
                rle = [coco_mask.encode(bitmap)["counts"].decode() for bitmap in bitmaps]
                rle = [{"counts": counts} for counts in rle]
            boxes, scores = found.pred_boxes.tensor.numpy(), found.scores.numpy()
            theirs[str(i)] = _instances(boxes, scores, found.pred_classes.numpy(), rle)
        if "sem_seg" in other:
            shares.append((one.sem_seg == other["sem_seg"].argmax(dim=0).numpy()).mean())
        if "panoptic_seg" in other:
            shares.append((one.panoptic_seg == other["panoptic_seg"][0].numpy()).mean())
    if ours:
        found = compare(ours, theirs, line)
        shares.append(found.paired)
        if line == "exact":
            shares.append(found.same_masks if found.detections else 1.0)
    return float(min(shares))


def _instances(boxes: Any, scores: Any, classes: Any, masks: list[Any] | None) -> list[Row]:
    return [
        {
            "box": boxes[i].tolist(),
            "score": float(scores[i]),
            "class_id": int(classes[i]),
            "mask": masks and {"counts": masks[i]["counts"]},
        }
        for i in range(len(scores))
    ]


def floor(device: str, case: Path, batches: str, seconds: str) -> Iterator[Row]:
    """Measure the time and the peak memory of the forward alone."""
    import torch
    from contenders import job_overrides
    from hydra import compose, initialize_config_dir

    from pipeline.config.build import build_job

    on_cuda = device.startswith("cuda")
    sizes = [int(size) for size in batches.split(",")]
    settings = {"exact": "runnable=exact", "fp32": "runnable=detectron2", "bf16": "runnable=bf16"}
    if on_cuda:
        settings["fp16"] = "runnable.precision=fp16"
    wait = torch.cuda.synchronize if on_cuda else lambda: None
    for name, setting in settings.items():
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            overrides = [*job_overrides(case, device, [setting]), f"output={case / 'floor'}"]
            job = build_job(compose("config", overrides))
        with job.runnable as runnable:
            assets = [asset for asset, _ in zip(job.source, range(sizes[-1]), strict=False)]
            inputs = [runnable.prepare(next(iter(asset.frames()))) for asset in assets]
            for size in [1] if name == "exact" else sizes:  # exact runs one image at a time
                batch = (inputs * size)[:size]
                runnable.forward(batch)
                wait()
                if on_cuda:
                    torch.cuda.reset_peak_memory_stats()
                n, started = 0, perf_counter()
                while not n or perf_counter() - started < float(seconds):
                    runnable.forward(batch)
                    wait()
                    n += size
                row: Row = {"precision": name, "batch": size}
                row["images/s"] = n / (perf_counter() - started)
                if on_cuda:
                    row["device peak, MB"] = torch.cuda.max_memory_allocated() / _MB
                yield row


def naive(device: str, case: Path) -> Iterator[Row]:
    """Time the script that users write, on a few of the images."""
    import contenders

    few = case.with_name(case.name + "-few")
    (few / "images").mkdir(parents=True)
    for path in sorted((case / "images").iterdir())[:_NAIVE_IMAGES]:
        (few / "images" / path.name).write_bytes(path.read_bytes())
    for name in ("config.yaml", "model.pth", "classes.txt"):
        (few / name).symlink_to(case / name)
    work = contenders.naive(few, few, device)
    started = perf_counter()
    work()
    n_images = len(list((few / "images").iterdir()))
    yield {"variant": "naive", "images/s": n_images / (perf_counter() - started)} | _memory(device)


def job(device: str, case: Path, *variant: str) -> Iterator[Row]:
    """Run d2run's command without sinks, and measure its peak memory."""
    from contenders import job_overrides

    import run

    output = case.with_name("job")
    overrides = [*job_overrides(case, device, variant), "sink=[]", f"output={output}"]
    sys.argv = ["run.py", *overrides, "runner.on_change=restart"]
    status = run.main()
    if status:
        raise SystemExit(f"run.py ended with status {status}")
    record = json.loads((output / "run.json").read_text())
    n_images = len(list((case / "images").iterdir()))
    row: Row = {"variant": " ".join(variant), "images/s": n_images / record["seconds"]["wall"]}
    row["busy, as the job says"] = record.get("busy")
    yield row | _memory(device)


def _memory(device: str) -> Row:
    import torch

    row: Row = {}
    if device.startswith("cuda"):
        row["device peak, MB"] = torch.cuda.max_memory_allocated() / _MB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1 if sys.platform == "darwin" else 1024
    return row | {"host peak, MB": peak * unit / _MB}


def jobs(device: str, case: Path, *variants: str) -> Iterator[Row]:
    """Run ``naive``, then ``job`` for each variant, each in a process."""
    for arguments in (["naive"], *(["job", *variant.split()] for variant in variants)):
        rows = case.with_name("row")
        rows.unlink(missing_ok=True)
        command = [sys.executable, __file__, arguments[0], str(rows), device, str(case)]
        done = subprocess.run([*command, *arguments[1:]], capture_output=True, text=True)
        if done.returncode:
            print(done.stdout[-2000:], done.stderr[-2000:], flush=True)  # noqa: T201
            last = (done.stderr.strip().splitlines() or ["no output"])[-1]
            yield {"variant": " ".join(arguments[1:]) or "naive", "failed": last}
        else:
            yield json.loads(rows.read_text())


_STEPS = {step.__name__: step for step in (check, case, parity, floor, naive, job, jobs)}


def main() -> None:
    """Run one step."""
    name, rows, device, folder, *arguments = sys.argv[1:]
    for row in _STEPS[name](device, Path(folder), *arguments):
        with Path(rows).open("a") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
