"""One contender; compare.py runs it in a separate process.

    python benchmarks/contenders.py {naive,predictor,forward,floor} CASE OUTPUT DEVICE [OVERRIDE...]

It loads its model, processes CASE/images and writes the duration to OUTPUT/run.json.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from time import perf_counter
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

Work = Callable[[], None]


def naive(case: Path, output: Path, device: str) -> Work:
    """The script that users write."""
    import cv2
    import numpy as np
    from detectron2.data import MetadataCatalog
    from detectron2.utils.visualizer import Visualizer
    from pycocotools import mask as coco_mask

    predictor = default_predictor(case, device)
    metadata = MetadataCatalog.get("bench")
    metadata.thing_classes = (case / "classes.txt").read_text().splitlines()

    def work() -> None:
        results = []
        for path in sorted((case / "images").iterdir()):
            image = cv2.imread(str(path))
            instances = predictor(image)["instances"].to("cpu")
            drawn = Visualizer(image[:, :, ::-1], metadata).draw_instance_predictions(instances)
            cv2.imwrite(str(output / f"{path.stem}.jpg"), drawn.get_image()[:, :, ::-1])
            boxes = instances.pred_boxes.tensor.numpy()
            for i in range(len(instances)):
                mask = np.asfortranarray(instances.pred_masks[i].numpy())
                rle = coco_mask.encode(mask)
                rle["counts"] = rle["counts"].decode()
                results.append(
                    {
                        "image": path.name,
                        "class_id": int(instances.pred_classes[i]),
                        "box": boxes[i].tolist(),
                        "score": float(instances.scores[i]),
                        "mask": rle,
                    }
                )
        with (output / "results.json").open("w") as file:
            json.dump(results, file)

    return work


def predictor(case: Path, output: Path, device: str) -> Work:
    """The bare ``DefaultPredictor`` loop; results are discarded."""
    import cv2

    predict = default_predictor(case, device)

    def work() -> None:
        for path in sorted((case / "images").iterdir()):
            predict(cv2.imread(str(path)))
        _wait(device)

    return work


def forward(case: Path, output: Path, device: str) -> Work:
    """The model's own forward in eager mode, one image at a time, with inputs on the device."""
    import cv2
    import torch

    predict = default_predictor(case, device)
    inputs = []
    for path in sorted((case / "images").iterdir()):
        image = cv2.imread(str(path))
        resized = predict.aug.get_transform(image).apply_image(image)
        tensor = torch.as_tensor(resized.astype("float32").transpose(2, 0, 1), device=device)
        inputs.append({"image": tensor, "height": image.shape[0], "width": image.shape[1]})

    def work() -> None:
        with torch.inference_mode():
            for item in inputs:
                predict.model.inference([item], do_postprocess=False)
        _wait(device)

    return work


def floor(case: Path, output: Path, device: str, *overrides: str) -> Work:
    """Only the forward, with the engine, precision and batches of the job."""
    from hydra import compose, initialize_config_dir

    from pipeline.config.build import build_job
    from pipeline.system.memory import keep_pages

    keep_pages()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        arguments = [*job_overrides(case, device, overrides), f"output={output / 'job'}"]
        job = build_job(compose("config", arguments))
    runnable: Any = job.runnable.__enter__()  # freed when the process ends
    frames = [frame for asset in job.source or () for frame in asset.frames()]
    inputs = [runnable.prepare(frame) for frame in frames]
    batches = list(_batches(inputs, runnable.batch_size))

    def work() -> None:
        with ThreadPoolExecutor(runnable.forwards) as pool:
            for _ in pool.map(runnable.forward, batches):
                pass
        _wait(device)

    return work


def job_overrides(case: Path, device: str, variant: tuple[str, ...] | list[str]) -> list[str]:
    """Return overrides with which d2run does the work of the others: no stage, default sinks."""
    stages = [] if any(argument.startswith("stage=") for argument in variant) else ["stage=[]"]
    return [
        "model=custom",
        f"model.config={case / 'config.yaml'}",
        f"model.weights={case / 'model.pth'}",
        f"model.class_names={case / 'classes.txt'}",
        f"input={case / 'images'}",
        f"device={device}",
        "quiet=true",
        *stages,
        *variant,
    ]


def default_predictor(case: Path, device: str) -> Any:
    """Return ``DefaultPredictor`` with the model of a case."""
    from detectron2.config import get_cfg
    from detectron2.engine import DefaultPredictor

    cfg = get_cfg()
    cfg.merge_from_file(str(case / "config.yaml"))
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = str(case / "model.pth"), device
    return DefaultPredictor(cfg)


def _batches(inputs: list[Any], size: Any) -> Any:
    """Group inputs of equal shape, as many as the job would."""
    size = size if isinstance(size, int) else 1
    for _, same in groupby(sorted(inputs, key=lambda item: item.shape), lambda item: item.shape):
        found = list(same)
        yield from (found[i : i + size] for i in range(0, len(found), size))


def _wait(device: str) -> None:
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def main() -> None:
    """Run one contender."""
    name, case, output, device, *overrides = sys.argv[1:]
    folder = Path(output)
    contender = {"naive": naive, "predictor": predictor, "forward": forward, "floor": floor}[name]
    work = contender(Path(case), folder, device, *overrides)
    started = perf_counter()
    work()
    seconds = {"wall": perf_counter() - started}
    (folder / "run.json").write_text(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main()
