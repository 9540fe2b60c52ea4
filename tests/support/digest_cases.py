"""The runs that digests.py records, and what they read: inputs and weights, all seeded.

python tests/support/digest_cases.py FOLDER    # write the random weights
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

FAMILIES = {  # the config in Detectron2's zoo, and further options that keep random weights fast
    "faster_rcnn": ("COCO-Detection/faster_rcnn_R_50_FPN_3x", ""),
    "mask_rcnn": ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x", ""),
    "cascade_mask_rcnn": ("Misc/cascade_mask_rcnn_R_50_FPN_3x", ""),
    "keypoint_rcnn": ("COCO-Keypoints/keypoint_rcnn_R_50_FPN_3x", ""),
    "retinanet": ("COCO-Detection/retinanet_R_50_FPN_3x", ""),
    "panoptic_fpn": (
        "COCO-PanopticSegmentation/panoptic_fpn_R_50_3x",
        ",MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH,0.0125"
        ",MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT,64",
    ),
    "semantic_fpn": ("Misc/semantic_R_50_FPN_1x", ""),
}
PHOTOS = ("astronaut", "chelsea", "coffee")  # of scikit-image
SCENES, MANY = 80, 3000
_EXAMPLES = ROOT / "examples/shapes/scenes"


@dataclass(frozen=True)
class Case:
    """A command whose results are recorded.

    Attributes:
        name: As in ``--only``.
        inputs: The folder of inputs, relative to the work folder.
        arguments: Overrides for ``run.py``; ``{work}`` stands for the work folder.
        status: The expected exit status.
        killed: Kill the command halfway, then resume it.
    """

    name: str
    inputs: str
    arguments: tuple[str, ...]
    status: int = 0
    killed: bool = False


def cases() -> Iterator[Case]:
    both = "sink=[coco,overlay]"
    yield Case("shapes/bundled", "examples", ("model=shapes", both))
    yield Case("shapes/scenes", "scenes", ("model=shapes", both))
    yield Case("shapes/exact", "scenes", ("model=shapes", "runnable=exact", "sink=[coco]"))
    yield Case("shapes/batches", "scenes", ("model=shapes", "batch_size=4", "sink=[coco]"))
    yield Case("shapes/stages", "scenes", ("model=shapes", both, *_STAGES))
    limits = ("stage=[]", "runnable.least_score=0.2", "runnable.most=2")
    yield Case("shapes/limits", "scenes", ("model=shapes", "sink=[coco]", *limits))
    yield Case("shapes/killed", "scenes", ("model=shapes", both), killed=True)
    for family in FAMILIES:
        job = (*_random(family), both, "stage=[]")
        yield Case(f"{family}/exact", "photos", (*job, "runnable.exact=true"))
        yield Case(f"{family}/default", "photos", job)
        yield Case(f"{family}/bf16", "photos", (*job, "runnable.precision=bf16"))
    seeded = ("model=mask_rcnn", "model.weights=random", "seed=3", _size(), "sink=[coco]")
    yield Case("mask_rcnn/seeded", "photos", seeded)
    many = ("model=shapes", "sink=[coco]")
    yield Case("many/default", "many", many, status=3)
    isolated = (*many, "decode.isolation=process")
    yield Case("many/isolated", "many/00", isolated, status=3)


_STAGES = (
    "stage=[min_score,keep_classes,nms,min_area,top_k]",
    "stage.min_score.threshold=0.3",
    "stage.keep_classes.names=[circle,triangle]",
    "stage.nms.iou_threshold=0.3",
    "stage.nms.class_agnostic=true",
    "stage.min_area.area_px=400",
    "stage.top_k.k=2",
)


def _size(more: str = "") -> str:
    return f"model.opts=[INPUT.MIN_SIZE_TEST,320,INPUT.MAX_SIZE_TEST,480{more}]"


def _random(family: str) -> tuple[str, ...]:
    """A family with the weights that ``write_weights`` wrote, thresholds low enough to detect."""
    most = 10 if family == "keypoint_rcnn" else 40
    opts = f",MODEL.RPN.POST_NMS_TOPK_TEST,200,TEST.DETECTIONS_PER_IMAGE,{most}"
    job = (f"model={family}", f"model.weights={{work}}/weights/{family}.pth")
    job = (*job, _size(opts + FAMILIES[family][1]))
    if family == "semantic_fpn":  # makes no instances, so has no thresholds
        return job
    return (*job, "model.score_threshold=0.0", "model.nms_threshold=0.9")


# Inputs


def prepare(work: Path, inputs: str) -> None:
    """Generate what a case reads, unless it is there."""
    name = inputs.split("/")[0]
    writers = {
        "examples": lambda folder: shutil.copytree(_EXAMPLES, folder, dirs_exist_ok=True),
        "scenes": lambda folder: _write_scenes(folder, 5, SCENES),
        "many": _write_many,
        "photos": _write_photos,
        "weights": _write_weights_apart,
    }
    if (work / name).exists():
        return
    partial = work / f".{name}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    writers[name](partial)
    partial.rename(work / name)  # only once it is complete


def _scenes() -> Any:
    spec = importlib.util.spec_from_file_location("scenes", ROOT / "examples/shapes/scenes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _write_scenes(folder: Path, seed: int, n: int) -> None:
    scenes = _scenes()
    for i in range(n):
        (folder / f"scene_{i:04d}.jpg").write_bytes(scenes.generate_jpeg(seed, i)[0])


def _write_many(folder: Path) -> None:
    """Scenes in folders of 300; every hundredth is truncated, empty or text."""
    scenes = _scenes()
    for i in range(MANY):
        data = scenes.generate_jpeg(6, i)[0]
        if i % 100 == 37:
            data = (data[: len(data) // 2], b"", b"not an image\n" * 9)[i // 100 % 3]
        path = folder / f"{i // 300:02d}" / f"scene_{i:04d}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)


def _write_photos(folder: Path) -> None:
    import cv2
    from skimage import data

    for name in PHOTOS:
        photo = cv2.cvtColor(getattr(data, name)(), cv2.COLOR_RGB2BGR)
        assert cv2.imwrite(str(folder / f"{name}.png"), photo)


def _write_weights_apart(folder: Path) -> None:
    """Write them from another process: torch would stay in the memory of this one."""
    subprocess.run([sys.executable, __file__, str(folder)], check=True)


def write_weights(folder: Path) -> None:
    """Write seeded random weights of each family, made by Detectron2 alone.

    Those of ``model.weights=random`` saturate: all scores are 0 or 1, and a change of the digits
    would not show.
    """
    import torch
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    package = Path(str(importlib.util.find_spec("detectron2").origin)).parent  # type: ignore[union-attr]
    for family, (config, _) in FAMILIES.items():
        cfg = get_cfg()
        cfg.merge_from_file(str(package / "model_zoo/configs" / f"{config}.yaml"))
        cfg.MODEL.DEVICE = "cpu"
        torch.manual_seed(7)
        module = build_model(cfg)
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if ".conv3.weight" in name:  # residual sums must not grow from block to block
                    parameter.mul_(0.2)
                elif "cls_score" in name or "mask_head.predictor" in name:
                    parameter.mul_(3)  # spread the logits, or all scores would be about the same
        torch.save({"model": module.state_dict()}, folder / f"{family}.pth")


if __name__ == "__main__":
    write_weights(Path(sys.argv[1]))
