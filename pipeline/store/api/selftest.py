"""The self-test: a small image, and the model's results for it when it was saved.

It shows whether the model computes the same results later, with another torch, driver or device.
The score threshold of the test is 0, so that even a model that detects nothing in a synthetic image
has instances to compare.
"""

from __future__ import annotations

import io
import logging
import platform
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError, ModelCorruptError, PipelineError
from pipeline.models import architectures
from pipeline.models.config_file import set_keys
from pipeline.records import Categories, Frame
from pipeline.runnables.detectron2 import Detectron2
from pipeline.runnables.steps.preprocess import prepare_unresized
from pipeline.system.devices import device_name
from pipeline.system.files import RegularFile
from pipeline.system.versions import library_versions

if TYPE_CHECKING:
    from torch import nn

Arrays = dict[str, NDArray[Any]]

_SIDE_PX = 128
_MAX_SIDE_PX = 1024  # of the image in a file
_MAX_BYTES = 64 << 20  # of the arrays in a file; a mask has 16 kB
_MAX_INSTANCES = 20  # those with the highest scores; equal scores below them can swap
# tolerances for another order of the same float32 arithmetic; see benchmarks/README.md
_BOX_PX = 0.05
_SCORE = 1e-3
_PIXELS = 1e-3  # share of the pixels of a mask or map
_IMAGE = "image"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # so that the same arrays give the same bytes

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result of a repeated self-test.

    Attributes:
        problems: Differences beyond the tolerances; empty if the test passed.
        identical: Whether all values are bit-identical.
        box_px: Largest difference of a box coordinate, in pixels.
        score: Largest difference of a score.
    """

    problems: tuple[str, ...]
    identical: bool
    box_px: float = 0.0
    score: float = 0.0


def lenient_cfg(cfg: Any) -> Any:
    """Return a copy of a ``CfgNode`` with a score threshold of 0."""
    cfg = cfg.clone()
    if architectures.instance_node(cfg.MODEL.META_ARCHITECTURE):
        keys = architectures.threshold_keys(cfg.MODEL.META_ARCHITECTURE, 0.0, None)
        try:
            set_keys(cfg, dict(keys), "self-test")
        except ConfigError:  # a custom architecture with other keys
            _log.info("the self-test keeps the score threshold of %s", cfg.MODEL.META_ARCHITECTURE)
    return cfg


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A loaded module as the model of a runnable."""

    name: str
    cfg: Any
    module: nn.Module
    categories: Categories

    def identity(self) -> dict[str, Any]:
        return {"name": self.name}

    def load(self, device: str) -> tuple[Any, Any]:
        return self.cfg, self.module


def open_runnable(
    name: str, cfg: Any, module: nn.Module, categories: Categories, device: str = "cpu"
) -> Detectron2:
    """Return a module as a runnable with exact arithmetic; entering it checks that it runs.

    Raises:
        ConfigError: d2run cannot run the config.
    """
    if problems := architectures.unsupported_settings(
        name, lambda key: architectures.cfg_value(cfg, key)
    ):
        raise ConfigError(*problems)
    return Detectron2(_Loaded(name, cfg, module, categories), device, exact=True)


def record(runnable: Detectron2) -> bytes | None:
    """Return the self-test of a model, as ``.npz``; ``None`` if it fails on the image."""
    image = _test_image()
    try:
        arrays = _outputs(runnable, image)
    except Exception as exc:  # a model of any architecture can raise anything
        _log.warning(
            "saved without a self-test: the model fails on a small image (%s: %s)",
            type(exc).__name__,
            exc,
        )
        return None
    kept = {
        key: value[:_MAX_INSTANCES]
        if key in ("boxes", "scores", "classes", "masks", "keypoints")
        else value
        for key, value in arrays.items()
    }
    return _npz({_IMAGE: image} | kept)


def repeat(runnable: Detectron2, path: Path) -> Comparison:
    """Run a model on the image of a self-test and compare the results.

    Raises:
        ModelCorruptError: The file is not a self-test.
    """
    stored = _arrays(path)
    image = stored.pop(_IMAGE)
    try:
        return compare(stored, _outputs(runnable, image))
    except PipelineError:
        raise
    except Exception as exc:
        return Comparison((f"the model fails with {type(exc).__name__}: {exc}",), False)


def compare(stored: Arrays, now: Arrays) -> Comparison:
    """Compare outputs. Instances are paired first, because similar scores can swap places."""
    if missing := set(stored) - set(now):
        return Comparison((f"missing outputs: {', '.join(sorted(missing))}",), False)
    problems: list[str] = []
    same = {key: _same(value, now[key]) for key, value in stored.items()}
    box_px = score = 0.0
    if "boxes" in stored and len(stored["boxes"]):
        n = len(stored["boxes"])
        order = _match(stored, now)
        if order is None:
            problems.append(f"some of the {n} best instances are missing or moved")
        else:
            box_px = float(np.abs(stored["boxes"] - now["boxes"][order]).max())
            score = float(np.abs(stored["scores"] - now["scores"][order]).max())
            if "masks" in stored:
                share = _unequal(stored["masks"], now["masks"][order])
                if share > _PIXELS:
                    problems.append(f"{share:.2%} of the mask pixels differ")
    for key in ("sem_seg", "panoptic_seg"):
        if key in stored and (share := _unequal(stored[key], now[key])) > _PIXELS:
            problems.append(f"{share:.2%} of the pixels of {key} differ")
    return Comparison(tuple(problems), all(same.values()), box_px, score)


def _match(stored: Arrays, now: Arrays) -> NDArray[np.int64] | None:
    """Return the index of each stored instance among the new ones; ``None`` if one is missing."""
    matched: list[int] = []
    for box, score, label in zip(stored["boxes"], stored["scores"], stored["classes"], strict=True):
        near = (
            (now["classes"] == label)
            & (np.abs(now["scores"] - score) <= _SCORE)
            & (np.abs(now["boxes"] - box).max(axis=1, initial=0) <= _BOX_PX)
        )
        near[matched] = False
        if not near.any():
            return None
        matched.append(int(near.argmax()))
    return np.array(matched)


def _same(stored: NDArray[Any], now: NDArray[Any]) -> bool:
    return bool(np.array_equal(stored, now[: len(stored)]))


def _unequal(a: NDArray[Any], b: NDArray[Any]) -> float:
    return float((a != b).mean()) if a.shape == b.shape else 1.0


def _outputs(runnable: Detectron2, image: NDArray[np.uint8]) -> Arrays:
    """Return the results of a model for an image that is not resized."""
    frame = Frame(image, "self-test")
    (output,) = runnable.forward([prepare_unresized(frame)])
    found = runnable.finish(frame, output)
    arrays: Arrays = {}
    if "instances" in output.content:
        arrays |= {"boxes": found.boxes, "scores": found.scores, "classes": found.classes}
        if found.masks is not None:
            arrays["masks"] = found.masks.dense()
        if found.keypoints is not None:
            arrays["keypoints"] = found.keypoints
    for name, map_ in (("sem_seg", found.sem_seg), ("panoptic_seg", found.panoptic_seg)):
        if map_ is not None:
            arrays[name] = map_.astype(np.int16)
    return arrays


def _test_image() -> NDArray[np.uint8]:
    """Return an image with edges, blobs and texture at several scales."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:_SIDE_PX, :_SIDE_PX].astype(np.float32)
    image = np.stack([x, y, _SIDE_PX - x], axis=2) * (160 / _SIDE_PX)
    for _ in range(12):
        cx, cy = random.integers(8, _SIDE_PX - 8, 2)
        radius = random.integers(6, 28)
        inside = (
            (x - cx) ** 2 + (y - cy) ** 2 < radius**2
            if random.random() < 0.5
            else (abs(x - cx) < radius) & (abs(y - cy) < radius * 0.7)
        )
        image[inside] = random.integers(0, 255, 3)
    image += random.normal(0, 6, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def _npz(arrays: Arrays) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in sorted(arrays.items()):
            part = io.BytesIO()
            np.lib.format.write_array(part, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", _EPOCH), part.getvalue(), 8)
    return buffer.getvalue()


def _arrays(path: Path) -> Arrays:
    try:
        with RegularFile(path) as file:
            with zipfile.ZipFile(file) as archive:
                if sum(member.file_size for member in archive.infolist()) > _MAX_BYTES:
                    raise ValueError(f"more than {_MAX_BYTES} bytes unpacked")
            file.seek(0)
            with np.load(file, allow_pickle=False) as data:
                arrays = {name: data[name] for name in data.files}
        image = arrays[_IMAGE]
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError("no valid image")
        if max(image.shape) > _MAX_SIDE_PX:
            raise ValueError(f"an image of {image.shape[1]} x {image.shape[0]} pixels")
    except Exception as exc:  # zipfile, NumPy and zlib raise a dozen types for damaged files
        raise ModelCorruptError(
            f"'{path}' is not a valid self-test ({exc}); save the model again"
        ) from exc
    return arrays


def environment() -> dict[str, str | None]:
    """Return what results can depend on, as far as it is known without importing torch."""
    found: dict[str, str | None] = {"machine": platform.machine(), "cpu": device_name("cpu")}
    installed = library_versions()
    found |= {name: installed[name] for name in ("torch", "torchvision", "detectron2", "numpy")}
    try:
        found["driver"] = Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    except (OSError, IndexError):
        found["driver"] = None
    return found
