"""Reads weight files without running code, and loads them into a module strictly.

Detectron2's checkpointer unpickles anything and only warns about different keys or shapes. It is
not used here: every mismatch is an error that names the keys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import (
    ConfigError,
    ModelCorruptError,
    StoreError,
    UntrustedModelError,
    printable,
)
from pipeline.models.foreign import HEAD, ForeignFileError, describe, describe_text
from pipeline.models.weights.checkpoint import ZIP, LazyTensor, is_legacy, load_legacy, load_zip
from pipeline.models.weights.mismatch import describe_mismatch, join_names, shape_of, shorten
from pipeline.models.weights.opcodes import RefusedError
from pipeline.models.weights.unpickle import load_arrays
from pipeline.system.files import RegularFile

if TYPE_CHECKING:
    from torch import Tensor, nn

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".pkl")

# Other contents of a training checkpoint, and remains of older versions of Detectron2 or of
# training with other normalization layers. None of them changes what the model computes.
_BOOKKEEPING = {
    "__author__", "optimizer", "scheduler", "iteration", "epoch", "trainer", "matching_heuristics"
}  # fmt: skip
_UNUSED = re.compile(r"^pixel_(mean|std)$|anchor_generator\.cell_anchors|\.num_batches_tracked$")
_WRAPPERS = ("module.", "model.", "_orig_mod.")
_MAX_HEADER = 16 << 20  # bytes of a safetensors header; a thousand tensors take 1 % of that
_OTHER_TOOLS = {  # checkpoints of other tools, by the packages of the classes in them
    "ultralytics.": " (an Ultralytics YOLO model, which Detectron2 cannot run)",
    "models.": " (a YOLOv5 or YOLOv7 model, which Detectron2 cannot run)",
    "mmengine.": " (an MMDetection checkpoint, which Detectron2 cannot run)",
    "detectron2.": " (a complete pickled model)",
    "torch.nn.": " (a complete pickled model)",
}


def read_weights(path: Path, *, ema: bool = False) -> dict[str, Tensor]:
    """Return the tensors of a weight file, by name, on the CPU.

    Reads the formats of ``torch.save`` and safetensors, and the zoo's pickles; the format is
    detected from the content. Weights under ``model`` or ``state_dict`` are found.

    Args:
        path: The file.
        ema: Use the exponential moving averages (``ema_state``) of a training checkpoint. Tensors
            without an average, such as buffers, are those of the model.

    Raises:
        UntrustedModelError: Reading the file would run code; names the code.
        ModelCorruptError: The file is damaged or contains something other than weights.
        StoreError: The file cannot be read, or has another suffix.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise StoreError(f"weights: expected a file ending in {', '.join(SUFFIXES)}, got '{path}'")
    try:
        with RegularFile(path) as file:
            data = _read(file, path)
            tensors = _tensors(_weights_in(data, path), path)
            return _averaged(data, path, tensors) if ema else tensors
    except OSError as exc:
        raise StoreError(f"cannot read the weights '{path}': {exc.strerror or exc}") from exc


def reject_foreign(path: Path) -> None:
    """Check the first bytes of a file.

    Raises:
        ConfigError: It is not a weight file; says what it is.
        OSError: It cannot be read.
    """
    with RegularFile(path) as file:
        if what := describe(file.read(HEAD)):
            raise ConfigError(f"model.weights: '{path}' is {what}")


def _read(file: RegularFile, path: Path) -> Any:
    head = file.read(HEAD)
    file.seek(0)
    if what := describe(head):
        raise ModelCorruptError(f"'{path}' is {what}")
    try:
        if head.startswith(ZIP):
            return load_zip(file)
        if is_legacy(head):
            return load_legacy(file)
        if head[8:9] == b"{":
            return _safetensors(path, int.from_bytes(head[:8], "little"), file.size)
        return load_arrays(file)
    except OSError as exc:
        if exc.errno:
            raise
        raise _damaged(path, head, exc) from exc
    except ForeignFileError as exc:
        raise ModelCorruptError(f"'{path}' is {exc}") from None
    except RefusedError as exc:
        tool = next((text for name, text in _OTHER_TOOLS.items() if str(exc).startswith(name)), "")
        raise UntrustedModelError(
            f"'{path}' is not loaded, because it requires {exc}{tool}, which could run code. If "
            "you trust it, save only its weights: torch.save(model.state_dict(), PATH)"
        ) from None
    except Exception as exc:  # a damaged file can raise anything
        raise _damaged(path, head, exc) from exc


def _safetensors(path: Path, header: int, size: int) -> Any:
    from safetensors.torch import load_file

    if not header <= min(_MAX_HEADER, size):
        raise ValueError(f"a header of {header} bytes")
    return load_file(path)


def _damaged(path: Path, head: bytes, exc: Exception) -> ModelCorruptError:
    if what := describe_text(head):
        return ModelCorruptError(f"'{path}' is {what}")
    reason = printable(str(exc))[:120]
    return ModelCorruptError(
        f"'{path}' is not a complete weight file ({type(exc).__name__}: {reason}); download or "
        "copy it again"
    )


def _averaged(data: Any, path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    averages = data.get("ema_state") if isinstance(data, Mapping) else None
    for key in ("state", "shadow", "module"):  # where different trainers nest them
        if isinstance(averages, Mapping) and isinstance(averages.get(key), Mapping):
            averages = averages[key]
    if not isinstance(averages, Mapping) or not averages:
        raise ModelCorruptError(
            f"'{path}' has no averaged weights (ema_state); remove the option ema"
        )
    found = strip_wrappers(_tensors(averages, path), set(tensors))
    if not set(found) <= set(tensors):  # the weights have the prefix, the averages do not
        tensors = strip_wrappers(tensors, set(found))
    if unknown := [name for name in found if name not in tensors]:
        raise ModelCorruptError(
            f"'{path}' has averages of unknown weights: {join_names(unknown, 3)}; load without ema"
        )
    return tensors | found


def _weights_in(data: Any, path: Path) -> Mapping[str, Any]:
    for key in ("model", "state_dict", "model"):
        if isinstance(data, Mapping):
            if data.get("matching_heuristics") or "blobs" in data:
                raise ModelCorruptError(
                    f"'{path}' has Caffe2 names, as in weights that training starts from; give the "
                    "weights of a complete Detectron2 model"
                )
            data = data[key] if isinstance(data.get(key), Mapping) else data
    if not isinstance(data, Mapping) or not data:
        raise ModelCorruptError(f"'{path}' has no weights; expected tensors by name")
    return data


def _tensors(data: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    import numpy as np
    import torch

    tensors: dict[str, Tensor] = {}
    shared: dict[int, Tensor] = {}  # one array can have many names
    for name, value in data.items():
        if isinstance(value, LazyTensor):
            value = _loaded(value, name, path)
        elif isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            if id(value) not in shared:
                native = value.astype(value.dtype.newbyteorder("="))
                shared[id(value)] = torch.from_numpy(native)
            value = shared[id(value)]
        if isinstance(value, torch.Tensor) and isinstance(name, str):
            tensors[name] = value
        elif name not in _BOOKKEEPING:
            raise ModelCorruptError(
                f"'{path}' has a {type(value).__name__} under '{shorten(name)}'; expected tensors "
                "by name"
            )
    return tensors


def _loaded(value: LazyTensor, name: Any, path: Path) -> Tensor:
    try:
        return value.load()
    except Exception as exc:  # torch has many types
        reason = printable(str(exc).split("\n")[0])[:120]
        raise ModelCorruptError(
            f"'{path}' is not a complete weight file: cannot read '{shorten(name)}' ({reason}); "
            "download or copy it again"
        ) from exc


def strip_wrappers(tensors: Mapping[str, Tensor], expected: Set[str]) -> dict[str, Tensor]:
    """Remove the prefixes of wrappers if the names then match what a model expects.

    ``module.`` comes from training on several devices, ``model.`` from Lightning, ``_orig_mod.``
    from ``torch.compile``. They can be nested, and ``_orig_mod.`` also occurs within names.
    """
    if any(name in expected for name in tensors):
        return dict(tensors)
    plain = {name.replace("_orig_mod.", ""): value for name, value in tensors.items()}
    prefix = next((found for name in plain if (found := _prefix(name, expected))), "")
    return {name.removeprefix(prefix): value for name, value in plain.items()}


def _prefix(name: str, expected: Set[str]) -> str:
    rest = name
    while rest not in expected:
        wrapper = next((w for w in _WRAPPERS if rest.startswith(w)), None)
        if wrapper is None:
            return ""
        rest = rest.removeprefix(wrapper)
    return name.removesuffix(rest)


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Load tensors into a module, in place.

    Args:
        module: The module.
        tensors: The tensors by name.
        where: Name of the file for messages.

    Raises:
        ModelCorruptError: A key is missing or unexpected, has another shape or dtype, or a value is
            not a number; names the first of each kind.
    """
    expected = module.state_dict()
    tensors = strip_wrappers(tensors, expected.keys())
    known = [name for name in tensors if name in expected]
    different = [name for name in known if shape_of(tensors[name]) != shape_of(expected[name])]
    if not different:
        # hooks of the modules convert older checkpoints, so only this call knows what is missing
        found = module.load_state_dict(dict(tensors), strict=False)
        missing, unexpected = list(found.missing_keys), list(found.unexpected_keys)
    else:
        missing = [name for name in expected if name not in tensors]
        unexpected = [name for name in tensors if name not in expected]
    missing = [name for name in missing if not _UNUSED.search(name)]
    unexpected = [name for name in unexpected if not _UNUSED.search(name)]
    if different or missing or unexpected:
        text = describe_mismatch(tensors, expected, different, missing, unexpected)
        raise ModelCorruptError(f"{where} do not fit the model: {text}")
    _check_finite(module, where)


def _check_finite(module: nn.Module, where: str) -> None:
    parameters = {name for name, _ in module.named_parameters()}
    bad = [
        name
        for name, value in module.state_dict().items()
        if value.is_floating_point()
        # buffers can contain -inf on purpose, for example attention masks
        and bool((~value.isfinite() if name in parameters else value.isnan()).any())
    ]
    if bad:
        raise ModelCorruptError(
            f"{where} contain NaN or infinity: {join_names(bad, 3)}; check that the training "
            "converged"
        )
