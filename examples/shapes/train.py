"""Trains the `shapes` model on generated scenes, from scratch.

    python examples/shapes/train.py --output runs/shapes
    python examples/shapes/train.py --share 0.01                          a quick test
    python examples/shapes/train.py --leg 2 --weights WEIGHTS.safetensors   continues after leg 1

Every step uses new scenes. ``--seed`` determines them and the initial weights.
"""

import argparse
import random
import shutil
import time
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data.transforms import ResizeShortestEdge, ResizeTransform
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from safetensors.torch import load_file, save_file
from scenes import CLASS_NAMES, generate

CONFIG = Path(__file__).with_name("config.yaml")
GRADIENT_NORM = 5.0
WEIGHT_DECAY = 0.01


class Leg(NamedTuple):
    """A part of the training, in which the learning rate rises to a peak and falls to zero.

    Attributes:
        steps: number of batches.
        batch_size: scenes per batch.
        learning_rate: the peak.
        sides: the smallest and the largest length, px, that an image's shorter side is resized to.
        scenes: seed of the scenes; 1 is reserved for the evaluation.
    """

    steps: int
    batch_size: int
    learning_rate: float
    sides: tuple[int, int]
    scenes: int


LEGS = (
    Leg(3300, 8, 2e-3, (272, 368), scenes=0),
    Leg(2000, 16, 1e-3, (336, 470), scenes=11),
)


class SceneDataset(torch.utils.data.Dataset):
    """Scenes of one seed in the form Detectron2's models train on.

    Args:
        seed: of the scenes.
        length: number of scenes.
        sides: the smallest and the largest length of an image's shorter side, px.
        max_side: the longer side's limit, px.
    """

    def __init__(self, seed: int, length: int, sides: tuple[int, int], max_side: int) -> None:
        self._seed = seed
        self._length = length
        self._sides = sides
        self._max_side = max_side

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, object]:
        image, annotations = generate(self._seed, index)
        old = image.shape[:2]
        side = int(np.random.default_rng([self._seed, index, 1]).integers(*self._sides))
        new = ResizeShortestEdge.get_output_shape(*old, side, self._max_side)
        image = ResizeTransform(*old, *new).apply_image(image)
        masks = np.stack([shape.mask for shape in annotations], 2).astype(np.uint8) * 255
        masks = cv2.resize(masks, new[::-1], interpolation=cv2.INTER_LINEAR) >= 128
        scale = np.array([new[1] / old[1], new[0] / old[0]] * 2, np.float32)
        instances = Instances(new)
        instances.gt_boxes = Boxes(np.stack([shape.box for shape in annotations]) * scale)
        instances.gt_classes = torch.tensor([CLASS_NAMES.index(a.class_name) for a in annotations])
        instances.gt_masks = BitMasks(masks.reshape(*new, -1).transpose(2, 0, 1).copy())
        return {"image": torch.from_numpy(image.transpose(2, 0, 1).copy()), "instances": instances}


def load_config() -> CfgNode:
    """The model's configuration, as used for inference."""
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIG))
    return cfg


def save(model: torch.nn.Module, out_dir: Path) -> None:
    """Writes ``weights.safetensors`` and, beside it, the ``config.yaml`` that describes it."""
    out_dir.mkdir(parents=True, exist_ok=True)
    state = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in model.state_dict().items()
        if not name.endswith("num_batches_tracked")  # FrozenBN has none
    }
    save_file(state, out_dir / "weights.safetensors")
    shutil.copyfile(CONFIG, out_dir / CONFIG.name)


def train(model: torch.nn.Module, loader: torch.utils.data.DataLoader, peak: float) -> None:
    """One pass over ``loader``, with AdamW and a one-cycle learning rate."""
    optimizer = torch.optim.AdamW(model.parameters(), peak, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, peak, total_steps=len(loader), pct_start=0.1
    )
    started = time.perf_counter()
    for step, batch in enumerate(loader, start=1):
        with EventStorage():  # Detectron2's losses insist on one
            losses = model(batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
        optimizer.step()
        schedule.step()
        if step % 20 == 0 or step == len(loader):
            parts = "  ".join(f"{name} {float(loss.detach()):.3f}" for name, loss in losses.items())
            seconds = time.perf_counter() - started
            print(f"step {step}/{len(loader)}  {seconds:.0f} s  {parts}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("runs/shapes"))
    parser.add_argument("--seed", type=int, default=0, help="changes the scenes and first weights")
    parser.add_argument("--share", type=float, default=1, help="of each leg's steps")
    parser.add_argument("--leg", type=int, default=1, help="to begin with")
    parser.add_argument("--weights", type=Path, help="a .safetensors file to start from")
    parser.add_argument("--workers", type=int, default=2, help="processes that make scenes")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    random.seed(args.seed)
    np.random.seed(args.seed)
    torch.manual_seed(args.seed)
    cfg = load_config()
    cfg.MODEL.DEVICE = args.device
    cfg.MODEL.RESNETS.NORM = cfg.MODEL.FPN.NORM = "BN"
    model = build_model(cfg).train()
    if args.weights:
        model.load_state_dict(load_file(args.weights), strict=False)  # BN's step counts lack
    for number, leg in enumerate(LEGS[args.leg - 1 :], start=args.leg):
        print(f"leg {number}: {leg}", flush=True)
        length = max(1, round(args.share * leg.steps)) * leg.batch_size
        scenes = SceneDataset(
            1000 * args.seed + leg.scenes, length, leg.sides, cfg.INPUT.MAX_SIZE_TEST
        )
        loader = torch.utils.data.DataLoader(
            scenes,
            leg.batch_size,
            num_workers=args.workers,
            collate_fn=list,
            worker_init_fn=lambda _: cv2.setNumThreads(1),
        )
        train(model, loader, leg.learning_rate)
        save(model, args.output)


if __name__ == "__main__":
    main()
