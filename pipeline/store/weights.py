"""Weight files: read without running code, and fitted to a model without exception.

Detectron2's checkpointer unpickles freely and only warns where keys or shapes differ. This never
uses it: whatever does not fit is an error that lists the keys.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ModelCorruptError, StoreError, UntrustedModelError
from pipeline.store.unpickle import load_arrays

if TYPE_CHECKING:
    from torch import Tensor, nn

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".pkl")

# Beside the weights in a training checkpoint, or left over from older Detectron2 or from training
# with other normalisation layers; none of them changes what the model computes.
_BOOKKEEPING = {
    "__author__", "optimizer", "scheduler", "iteration", "epoch", "trainer", "matching_heuristics"
}  # fmt: skip
_UNUSED = re.compile(r"^pixel_(mean|std)$|anchor_generator\.cell_anchors|\.num_batches_tracked$")
_NAMED = re.compile(
    r"(?:GLOBAL|function) +<?([\w.]+(?: [\w.]+)??)>?(?: (?:was|whose|which)|$)", re.M
)
_SHOWN = 10


def read_weights(path: Path, *, ema: bool = False) -> dict[str, Tensor]:
    """Return the tensors of a weight file, by name, on the CPU.

    Takes ``.safetensors``, PyTorch's ``.pth``, ``.pt`` and ``.bin``, and the zoo's ``.pkl``. What
    stands under ``model`` or ``state_dict`` is found, and a prefix ``module.`` is dropped.

    Args:
        path: The file.
        ema: Take the exponential moving averages (``ema_state``) that training kept beside the
            weights; what has no average, as buffers have none, is the model's own.

    Raises:
        UntrustedModelError: Reading it would run code; names what it asks for.
        ModelCorruptError: It is broken, or holds something else than weights.
        StoreError: It cannot be read, or is of another kind.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".safetensors":
            data = _safetensors(path)
        elif suffix == ".pkl":
            data = load_arrays(path)
        elif suffix in SUFFIXES:
            data = _torch(path)
        else:
            raise StoreError(f"'{path}': weights are read from {', '.join(SUFFIXES)}")
    except OSError as exc:
        raise StoreError(f"cannot read the weights '{path}': {exc.strerror or exc}") from exc
    tensors = _tensors(_weights_in(data, path), path)
    return tensors | _averages(data, path, tensors) if ema else tensors


def _averages(data: Any, path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    averages = data.get("ema_state") if isinstance(data, Mapping) else None
    for key in ("state", "shadow", "module"):  # as different trainers nest them
        if isinstance(averages, Mapping) and isinstance(averages.get(key), Mapping):
            averages = averages[key]
    if not isinstance(averages, Mapping) or not averages:
        raise ModelCorruptError(f"'{path}' has no averaged weights (ema_state); leave out ema")
    found = _tensors(averages, path)
    if strange := [name for name in found if name not in tensors]:
        raise ModelCorruptError(
            f"'{path}': the averaged weights name what the model lacks: {_some(strange)}"
        )
    return found


def _safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, ValueError) as exc:
        raise _broken(path, exc) from exc


def _torch(path: Path) -> Any:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols it seldom sees
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as exc:  # torch raises a dozen kinds for broken files
        named = _NAMED.search(str(exc))
        if named:
            raise UntrustedModelError(
                f"'{path}' asks for {named[1]}, which could run code, so it is not loaded; save "
                "only the weights, where you trust it: torch.save(model.state_dict(), PATH)"
            ) from exc
        raise _broken(path, exc) from exc


def _broken(path: Path, exc: Exception) -> ModelCorruptError:
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    reason = f": {lines[0][:120]}" if lines and "eights only" not in lines[0] else ""
    return ModelCorruptError(
        f"'{path}' is not a whole weight file ({type(exc).__name__}{reason}); get the file again"
    )


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
    for name, value in data.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            native = value.astype(value.dtype.newbyteorder("="))
            value = torch.from_numpy(native)
        if isinstance(value, torch.Tensor):
            tensors[str(name)] = value
        elif name not in _BOOKKEEPING:
            raise ModelCorruptError(
                f"'{path}' holds a {type(value).__name__} under '{name}': expected tensors by name"
            )
    return without_prefix(tensors)


def without_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop the ``module.`` that training on several devices puts before every name."""
    if not all(name.startswith("module.") for name in tensors):
        return dict(tensors)
    return {name.removeprefix("module."): value for name, value in tensors.items()}


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Put tensors into a module, in place.

    Raises:
        ModelCorruptError: A key is missing, unexpected or of another shape or kind, or a value is
            not a number; lists the keys.
    """
    expected = module.state_dict()
    known = [name for name in tensors if name in expected]
    unlike = [
        f"{name} is {_form(tensors[name])}, the model expects {_form(expected[name])}"
        for name in known
        if _form(tensors[name]) != _form(expected[name])
    ]
    missing: list[str] = []
    unexpected: list[str] = []
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
        listed = [
            f"{len(names)} {what}: {_some(names)}"
            for what, names in (
                ("of another shape", unlike),
                ("missing", missing),
                ("unexpected", unexpected),
            )
            if names
        ]
        raise ModelCorruptError(
            f"{where} do not fit the model: {'; '.join(listed)}{_hint(unlike, known)}"
        )
    _finite(module, where)


def _form(tensor: Tensor) -> str:
    kind = "" if tensor.is_floating_point() else f" {str(tensor.dtype).removeprefix('torch.')}"
    return f"{tuple(tensor.shape)}{kind}"


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _hint(unlike: list[str], known: Iterable[str]) -> str:
    if not list(known):
        return "; not one name is known, so they are another architecture's: see model.config"
    if any(re.search(r"cls_score|bbox_pred|\.predictor\.", line) for line in unlike):
        return "; where the number of classes differs, set model.class_names to those it knows"
    return "; are they another variant's? see model.config and model.variant"


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
            f"{where} hold values that are not numbers: {_some(bad)}; was the training stable?"
        )
