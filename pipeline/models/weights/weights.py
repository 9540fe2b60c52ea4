"""Weight files: read without running code, and fitted to a model without exception.

Detectron2's checkpointer unpickles freely and only warns where keys or shapes differ. It is never
used here: whatever does not fit is an error that names the keys.
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
from pipeline.models.foreign import HEAD, ForeignFileError, describe, is_text
from pipeline.models.weights.checkpoint import ZIP, LazyTensor, is_legacy, load_legacy, load_zip
from pipeline.models.weights.misfits import form, misfit, short, some
from pipeline.models.weights.opcodes import RefusedError
from pipeline.models.weights.unpickle import load_arrays
from pipeline.system.files import RegularFile

if TYPE_CHECKING:
    from torch import Tensor, nn

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".pkl")

# Beside the weights in a training checkpoint, or left over from older Detectron2 or from training
# with other normalisation layers; none of them changes what the model computes.
_BOOKKEEPING = {
    "__author__", "optimizer", "scheduler", "iteration", "epoch", "trainer", "matching_heuristics"
}  # fmt: skip
_UNUSED = re.compile(r"^pixel_(mean|std)$|anchor_generator\.cell_anchors|\.num_batches_tracked$")
_WRAPPERS = ("module.", "model.", "_orig_mod.")
_MAX_HEADER = 16 << 20  # bytes of a safetensors header; a thousand tensors take a hundredth
_WHOSE = {  # packages whose classes are in checkpoints of other tools
    "ultralytics.": " (it is a YOLO model of Ultralytics, which Detectron2 cannot run)",
    "models.": " (it is a YOLOv5 or YOLOv7 model, which Detectron2 cannot run)",
    "mmengine.": " (it is a checkpoint of MMDetection, which Detectron2 cannot run)",
    "detectron2.": " (it is a whole pickled model)",
    "torch.nn.": " (it is a whole pickled model)",
}


def read_weights(path: Path, *, ema: bool = False) -> dict[str, Tensor]:
    """Return the tensors of a weight file, by name, on the CPU.

    Takes what ``torch.save`` and safetensors write, and the zoo's pickles; the content says
    which it is. What is under ``model`` or ``state_dict`` is found.

    Args:
        path: The file.
        ema: Take the exponential moving averages (``ema_state``) that training kept beside the
            weights; what has no average, as buffers have none, is the model's own.

    Raises:
        UntrustedModelError: Reading it would run code; names what it asks for.
        ModelCorruptError: It is broken, or holds something other than weights; says what it is.
        StoreError: It cannot be read, or is of another kind.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise StoreError(f"'{path}': weights are read from {', '.join(SUFFIXES)}")
    try:
        with RegularFile(path) as file:
            data = _read(file, path)
            tensors = _tensors(_weights_in(data, path), path)
            return _averaged(data, path, tensors) if ema else tensors
    except OSError as exc:
        raise StoreError(f"cannot read the weights '{path}': {exc.strerror or exc}") from exc


def refuse_foreign(path: Path) -> None:
    """Look at a file's first bytes only.

    Raises:
        ConfigError: They are those of something that is no weight file; says what it is.
        OSError: It cannot be read.
    """
    with RegularFile(path) as file:
        if what := describe(file.read(HEAD)):
            raise ConfigError(f"weights '{path}' is {what}")


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
        raise _broken(path, head, exc) from exc
    except ForeignFileError as exc:
        raise ModelCorruptError(f"'{path}' is {exc}") from None
    except RefusedError as exc:
        whose = next((text for name, text in _WHOSE.items() if str(exc).startswith(name)), "")
        raise UntrustedModelError(
            f"'{path}' asks for {exc}{whose}, which could run code, so it is not loaded; where you "
            "trust it, save its weights alone: torch.save(model.state_dict(), PATH)"
        ) from None
    except Exception as exc:  # a broken file raises whatever its stray bytes raise
        raise _broken(path, head, exc) from exc


def _safetensors(path: Path, header: int, size: int) -> Any:
    from safetensors.torch import load_file

    if not header <= min(_MAX_HEADER, size):
        raise ValueError(f"a header of {header} bytes")
    return load_file(path)


def _broken(path: Path, head: bytes, exc: Exception) -> ModelCorruptError:
    if what := is_text(head):
        return ModelCorruptError(f"'{path}' is {what}")
    reason = printable(str(exc))[:120]
    return ModelCorruptError(
        f"'{path}' is not a whole weight file ({type(exc).__name__}: {reason}); get the file again"
    )


def _averaged(data: Any, path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    averages = data.get("ema_state") if isinstance(data, Mapping) else None
    for key in ("state", "shadow", "module"):  # as different trainers nest them
        if isinstance(averages, Mapping) and isinstance(averages.get(key), Mapping):
            averages = averages[key]
    if not isinstance(averages, Mapping) or not averages:
        raise ModelCorruptError(f"'{path}' has no averaged weights (ema_state); leave out ema")
    found = fitted(_tensors(averages, path), set(tensors))
    if not set(found) <= set(tensors):  # the weights have the prefix, the averages do not
        tensors = fitted(tensors, set(found))
    if strange := [name for name in found if name not in tensors]:
        raise ModelCorruptError(
            f"'{path}': the averaged weights name what the model lacks: {some(strange, 3)}"
        )
    return tensors | found


def _weights_in(data: Any, path: Path) -> Mapping[str, Any]:
    for key in ("model", "state_dict", "model"):
        if isinstance(data, Mapping):
            if data.get("matching_heuristics") or "blobs" in data:
                raise ModelCorruptError(
                    f"'{path}' has Caffe2's names for its weights, which only training can start "
                    "from; give the weights of a whole Detectron2 model"
                )
            data = data[key] if isinstance(data.get(key), Mapping) else data
    if not isinstance(data, Mapping) or not data:
        raise ModelCorruptError(f"'{path}' holds no weights: expected tensors by name")
    return data


def _tensors(data: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    import numpy as np
    import torch

    tensors: dict[str, Tensor] = {}
    shared: dict[int, Tensor] = {}  # one array may have many names
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
                f"'{path}' holds a {type(value).__name__} under '{short(name)}': expected tensors "
                "by name"
            )
    return tensors


def _loaded(value: LazyTensor, name: Any, path: Path) -> Tensor:
    try:
        return value.load()
    except Exception as exc:  # each of torch's own kinds
        reason = printable(str(exc).split("\n")[0])[:120]
        raise ModelCorruptError(
            f"'{path}' is not a whole weight file: '{short(name)}' cannot be read ({reason}); get "
            "the file again"
        ) from exc


def fitted(tensors: Mapping[str, Tensor], expected: Set[str]) -> dict[str, Tensor]:
    """Drop what wrappers put into names, where without it they are what a model expects.

    ``module.`` comes from training on several devices, ``model.`` from Lightning, ``_orig_mod.``
    from ``torch.compile``; they may be nested, and the last is found in the middle of names too.
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
    """Put tensors into a module, in place.

    Raises:
        ModelCorruptError: A key is missing, unexpected or of another shape or kind, or a value is
            not a number; names the first of each kind.
    """
    expected = module.state_dict()
    tensors = fitted(tensors, expected.keys())
    known = [name for name in tensors if name in expected]
    unlike = [name for name in known if form(tensors[name]) != form(expected[name])]
    if not unlike:
        # its modules' own hooks complete what older Detectron2 wrote, so it tells what is missing
        found = module.load_state_dict(dict(tensors), strict=False)
        missing, unexpected = list(found.missing_keys), list(found.unexpected_keys)
    else:
        missing = [name for name in expected if name not in tensors]
        unexpected = [name for name in tensors if name not in expected]
    missing = [name for name in missing if not _UNUSED.search(name)]
    unexpected = [name for name in unexpected if not _UNUSED.search(name)]
    if unlike or missing or unexpected:
        text = misfit(tensors, expected, unlike, missing, unexpected)
        raise ModelCorruptError(f"{where} do not fit the model: {text}")
    _finite(module, where)


def _finite(module: nn.Module, where: str) -> None:
    parameters = {name for name, _ in module.named_parameters()}
    bad = [
        name
        for name, value in module.state_dict().items()
        if value.is_floating_point()
        # a buffer may hold -inf on purpose, as attention masks do
        and bool((~value.isfinite() if name in parameters else value.isnan()).any())
    ]
    if bad:
        raise ModelCorruptError(
            f"{where} hold values that are not numbers: {some(bad, 3)}; was the training stable?"
        )
