"""The cases of the benchmarks: images, and a model that every contender reads from a file.

python benchmarks/cases.py CASE FOLDER N_IMAGES
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

_R50 = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
_PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")  # of scikit-image


@dataclass(frozen=True)
class Case:
    """A model and images.

    Attributes:
        name: As in ``--case``.
        images: Number of images, unless the command line sets it.
        size: Their (height, width) in pixels; ``None`` for the generated scenes.
        instances: Largest number of instances per image.
    """

    name: str
    images: int
    size: tuple[int, int] | None = None
    instances: int = 100

    def write(self, folder: Path, n_images: int) -> None:
        """Write ``images/``, ``config.yaml``, ``model.pth`` and ``classes.txt``."""
        import torch

        (folder / "images").mkdir(parents=True)
        for i, image in zip(range(n_images), self._images(), strict=False):
            path = folder / "images" / f"{i:05d}.jpg"
            cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 92])
        cfg, module, names = self._shapes() if self.size is None else self._random()
        cfg.MODEL.WEIGHTS = ""
        torch.save({"model": module.state_dict()}, folder / "model.pth")
        (folder / "config.yaml").write_text(cfg.dump())
        (folder / "classes.txt").write_text("".join(f"{name}\n" for name in names))

    def _images(self) -> Iterator[np.ndarray]:
        if self.size is None:
            sys.path.insert(0, str(ROOT / "examples" / "shapes"))
            scenes = importlib.import_module("scenes")
            for i in range(sys.maxsize):
                yield scenes.generate(1, i)[0]
        else:
            yield from _photos(*self.size)

    def _shapes(self) -> tuple[Any, Any, tuple[str, ...]]:
        from pipeline.store import Model

        model = Model("shapes", tag="shapes")
        cfg, module = model.load("cpu")
        return cfg, module, model.categories.thing_names

    def _random(self) -> tuple[Any, Any, list[str]]:
        """Build an R50-FPN with seeded random weights and detections like those of a trained one.

        Scores from 0.9 down, boxes with a median side of a quarter of the image's, masks with
        holes and several parts.
        """
        import detectron2
        import torch
        from detectron2.config import get_cfg
        from detectron2.modeling import build_model

        cfg = get_cfg()
        cfg.merge_from_file(str(Path(detectron2.__file__).parent / "model_zoo/configs" / _R50))
        cfg.MODEL.DEVICE, cfg.TEST.DETECTIONS_PER_IMAGE = "cpu", self.instances
        torch.manual_seed(7)
        module = build_model(cfg).eval()
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if ".conv3.weight" in name:  # so that residual sums do not grow from block to block
                    parameter.mul_(0.2)
                elif "mask_head.predictor" in name:
                    parameter.mul_(20)
            bias = module.roi_heads.box_predictor.bbox_pred.bias
            bias.view(-1, 4)[:, 2:] = 5 * math.log(2.5)  # boxes 2.5 times as large as their anchors
        return cfg, module, [f"thing_{i}" for i in range(80)]


CASES = {
    case.name: case
    for case in (
        Case("shapes", images=100),
        Case("r50", images=8, size=(480, 640), instances=30),
        Case("full", images=8, size=(800, 1333), instances=30),
        Case("large", images=4, size=(3000, 4000), instances=100),
    )
}


def _photos(height: int, width: int) -> Iterator[np.ndarray]:
    """Yield random crops of photographs, mirrored in every second round."""
    from skimage import data

    for i in range(sys.maxsize):
        rng = np.random.default_rng(i)
        photo = cv2.cvtColor(getattr(data, _PHOTOS[i % len(_PHOTOS)])(), cv2.COLOR_RGB2BGR)
        h, w = photo.shape[:2]
        scale = rng.uniform(0.7, 1) * min(h / height, w / width)
        part_h, part_w = int(scale * height), int(scale * width)
        y, x = rng.integers(0, h - part_h + 1), rng.integers(0, w - part_w + 1)
        part = photo[y : y + part_h, x : x + part_w]
        if i // len(_PHOTOS) % 2:
            part = part[:, ::-1]
        yield cv2.resize(part, (width, height), interpolation=cv2.INTER_CUBIC)


def main() -> None:
    """Write a case. A separate process does this, so that the measuring one stays small."""
    name, folder, n_images = sys.argv[1:]
    CASES[name].write(Path(folder), int(n_images))


if __name__ == "__main__":
    main()
