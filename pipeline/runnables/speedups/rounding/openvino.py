"""Runs the parts of a model with OpenVINO, on the CPU.

In its first call, each part is traced for maps of any size and any number of regions, and compared
with torch. For Mask R-CNN R50-FPN, converting takes 0.3 s each time, and compiling another 0.3 s.
With a cache on disk, which then takes 170 MB, compiling takes half as long.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from pipeline.errors import ConfigError
from pipeline.failures import described
from pipeline.runnables.concurrency import current_slot
from pipeline.runnables.speedups.parts import Part, parts
from pipeline.runnables.speedups.patching import Call
from pipeline.runnables.state.stateless import StateRisk

_LOG = logging.getLogger(__name__)
_HINTS = {"fp32": "f32", "bf16": "bf16"}
_TOLERANCE = {"fp32": 1e-4, "bf16": 0.1}  # share of the largest value; measured: 3e-6 and 0.02


def compile_with_openvino(
    module: Any,
    precision: str,
    *,
    forwards: int,
    threads: int,
    cache: str | None = None,
    risks: Sequence[StateRisk] = (),
) -> bool:
    """Compute a model's parts with OpenVINO; each is compiled in its first call.

    Args:
        module: A Detectron2 model on the CPU, in eval mode, with parameters without gradients.
        precision: ``fp32`` or ``bf16``.
        forwards: Number of threads that may call the model at the same time.
        threads: OpenVINO's threads per forward. As many as torch uses, because they alternate.
        cache: Directory in which OpenVINO stores compiled parts; created if missing.
        risks: Modules that are not known to be stateless. A part with such a module stays in
            torch, because a trace would repeat for each frame what the module did for the first.

    Returns:
        Whether the model has parts that OpenVINO computes.

    Raises:
        ConfigError: The directory cannot be written to.
    """
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,  # other processes may be pinned to the same cores
    }
    if cache is not None:
        settings["CACHE_DIR"] = _cache_directory(cache)
    names = {each: name for name, each in module.named_modules()}
    compiled = []

    def through_openvino(part: Part, call: Call) -> Call:
        used = "fp32" if part.in_fp32 else precision
        hint = {"INFERENCE_PRECISION_HINT": _HINTS[used]}
        return CompiledPart(part, call, forwards, settings | hint, _TOLERANCE[used])

    for part in parts(module):
        inside = f"{names[part.owner]}."
        if risk := next((each for each in risks if f"{each.where}.".startswith(inside)), None):
            _LOG.warning("%s stays in torch: %s", part.name, risk)
        else:
            part.wrap(through_openvino)
            compiled.append(part)
    return bool(compiled)


def is_compiled(part: Part) -> bool:
    """Return whether OpenVINO computes a part."""
    return isinstance(part.call, CompiledPart) and not part.call.in_torch


def _cache_directory(cache: str) -> str:
    path = Path(cache).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(f"runnable.cache: cannot create '{path}': {exc.strerror}") from exc
    if not os.access(path, os.W_OK):
        raise ConfigError(f"runnable.cache: no permission to write to '{path}'")
    return str(path)


class CompiledPart:
    """A part's method, computed by OpenVINO.

    Results are in OpenVINO's memory and are valid until the next call in the same slot. That is
    enough, because the code between the parts of Detectron2's models creates new tensors.

    Args:
        part: The part.
        call: Computes the part in torch.
        forwards: Number of slots. Each has its own compiled model, because calls of one compiled
            model wait for each other, whatever its number of streams.
        settings: OpenVINO's settings for compiling.
        tolerance: Largest difference to torch's result, as a share of the largest value.

    Attributes:
        in_torch: Whether torch computes the part, because OpenVINO could not.
    """

    def __init__(
        self, part: Part, call: Call, forwards: int, settings: dict[str, Any], tolerance: float
    ) -> None:
        self.part = part
        self.call = call
        self.forwards = forwards
        self.settings = settings
        self.tolerance = tolerance
        self._model: Any = None
        self._requests: list[Any] = []  # by slot
        self._starting = Lock()
        self._compared = False
        self._spec: Any = None
        self.in_torch = False

    def __call__(self, *args: Any) -> Any:
        """Return what the part's method returns."""
        from torch.utils._pytree import tree_flatten, tree_unflatten

        tensors, _ = tree_flatten(args)
        empty = any(not tensor.numel() for tensor in tensors)
        if not (self._compared or empty):
            with self._starting:
                if not self._compared:
                    self._start(args)
                    self._compared = True
        if self.in_torch or empty:
            return self.call(*args)
        try:
            return tree_unflatten(_infer(self._requests[current_slot()], tensors), self._spec)
        except Exception as exc:  # at a size other than the first
            shapes = [tuple(tensor.shape) for tensor in tensors]
            _LOG.warning("%s runs in torch at %s: %s", self.part.name, shapes, described(exc))
            return self.call(*args)

    def _compiled(self) -> Any:
        import openvino

        compiled = openvino.Core().compile_model(self._model, "CPU", self.settings)
        return compiled.create_infer_request()

    def _start(self, args: tuple[Any, ...]) -> None:
        """Compile the part, and compare it with torch on the first rows."""
        from torch.utils._pytree import tree_flatten, tree_map

        few = tree_map(lambda tensor: tensor[:2].clone(), args)
        expected, self._spec = tree_flatten(self.call(*few))
        try:
            self._model = convert(self.part, self.call, few)
            self._requests = [self._compiled() for _ in range(self.forwards)]
            found = _infer(self._requests[0], tree_flatten(few)[0])
            for got, want in zip(found, expected, strict=True):
                _compare(got.numpy(), want.numpy(), self.tolerance)
        except Exception as exc:  # from torch's tracer, OpenVINO or the comparison
            _LOG.warning(
                "%s stays in torch: OpenVINO fails with %s", self.part.name, described(exc)
            )
            self.in_torch = True


def _infer(request: Any, tensors: list[Any]) -> list[Any]:
    import torch

    arrays = [tensor.contiguous().numpy() for tensor in tensors]
    found = request.infer(arrays, share_inputs=True, share_outputs=True)
    return [torch.from_numpy(array) for array in found.values()]


def _compare(got: np.ndarray[Any, Any], want: np.ndarray[Any, Any], tolerance: float) -> None:
    difference = float(np.abs(got - want).max()) if got.shape == want.shape else np.inf
    if not difference <= tolerance * max(float(np.abs(want).max()), 1e-6):
        raise ValueError(f"the result differs from torch's by {difference}")


def convert(part: Part, call: Call, args: tuple[Any, ...]) -> Any:
    """Return a part as an ``openvino.Model`` for maps of any size or any number of regions."""
    import openvino
    import torch
    from torch.utils._pytree import tree_flatten, tree_unflatten

    tensors, spec = tree_flatten(args)

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.owner = part.owner  # the tracer finds the weights here

        def forward(self, *flat: Any) -> Any:
            return tuple(tree_flatten(call(*tree_unflatten(list(flat), spec)))[0])

    with warnings.catch_warnings(), torch.inference_mode(mode=False), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer's deprecation, once per module
        example = tuple(
            tensor.clone() for tensor in tensors
        )  # tensors of inference mode cannot be traced
        tracer: Any = torch.jit.trace
        traced = tracer(Flat().eval(), example, check_trace=False)
        model = _import(traced)
    for port, tensor in zip(model.inputs, tensors, strict=True):
        _, channels, *rest = tensor.shape
        rest = rest if part.per_roi else [-1] * len(rest)
        port.get_node().set_partial_shape(openvino.PartialShape([-1, channels, *rest]))
    model.validate_nodes_and_infer_types()
    return model


def _import(traced: Any) -> Any:
    """Convert a traced module as ``openvino.convert_model`` does, without its telemetry."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    frontend = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchScriptPythonDecoder(traced)  # a variable, because it must outlive ``load``
    return frontend.convert(frontend.load(decoder))
