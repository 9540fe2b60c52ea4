"""The convolutional parts of a model through OpenVINO, on the CPU.

Each part is traced, taking maps of any size and any number of regions, and compared with torch on
its first call. To convert Mask R-CNN R50-FPN takes 0.3 s each time, to compile it as long; from its
cache on disk, which holds 170 MB of it then, OpenVINO has it in half of that.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from pipeline.errors import ConfigError
from pipeline.failures import described
from pipeline.runnables.forwards import lane
from pipeline.runnables.speedups.rounding.rearrange import Call, Part, parts
from pipeline.runnables.state.stateless import Doubt

_LOG = logging.getLogger(__name__)
_HINTS = {"fp32": "f32", "bf16": "bf16"}
_TOLERANCE = {"fp32": 1e-4, "bf16": 0.1}  # of the largest value; measured: 3e-6 and 0.02


def compile_parts(
    module: Any,
    precision: str,
    *,
    forwards: int,
    threads: int,
    cache: str | None = None,
    doubts: Sequence[Doubt] = (),
) -> Callable[[], dict[str, str]]:
    """Let OpenVINO compute a model's parts from now on; each is compiled when it is first called.

    Args:
        module: A Detectron2 model in eval mode on the CPU, its parameters without gradients.
        precision: ``fp32`` or ``bf16``.
        forwards: On how many threads the model may be called at the same time.
        threads: For each of them; as many as torch uses, for they take turns.
        cache: Folder in which OpenVINO keeps what it compiles; made if need be.
        doubts: A part with modules that are not known to be stateless stays in torch: a trace
            would repeat for each frame what they did for the first.

    Returns:
        A function that says what computes each part: ``openvino``, or ``torch`` where OpenVINO
        cannot.

    Raises:
        ConfigError: The folder cannot be written to.
    """
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,  # other processes' threads may be pinned to the same cores
    }
    if cache is not None:
        settings["CACHE_DIR"] = _folder(cache)
    names = {each: name for name, each in module.named_modules()}
    compiled: dict[str, Compiled | None] = {}

    def through_openvino(part: Part, call: Call) -> Call:
        used = "fp32" if part.in_fp32 else precision
        hint = {"INFERENCE_PRECISION_HINT": _HINTS[used]}
        new = Compiled(part, call, forwards, settings | hint, _TOLERANCE[used])
        compiled[part.name] = new
        return new

    for part in parts(module):
        inside = f"{names[part.owner]}."
        if doubt := next((each for each in doubts if f"{each.where}.".startswith(inside)), None):
            _LOG.warning("%s stays in torch: %s", part.name, doubt)
            compiled[part.name] = None
        else:
            part.replace(through_openvino)
    return lambda: {
        name: "torch" if part is None or part.in_torch else "openvino"
        for name, part in compiled.items()
    }


def _folder(cache: str) -> str:
    folder = Path(cache).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(f"runnable.cache: cannot make '{folder}': {exc.strerror}") from exc
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"runnable.cache: no right to write in '{folder}'")
    return str(folder)


class Compiled:
    """A part's call, computed by OpenVINO.

    Its results lie in OpenVINO's memory and are valid until the next call in the same lane: what
    lies between the parts of Detectron2's models makes tensors of its own.

    Args:
        part: What it is.
        call: Computes it in torch.
        forwards: How many lanes there are; each has a compiled model of its own, for calls of one
            wait for each other, whatever its number of streams.
        settings: For compiling.
        tolerance: Largest difference to torch's result, as a share of the largest value.
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
        self._requests: list[Any] = []  # by lane
        self._starting = Lock()
        self._compared = False
        self._spec: Any = None
        self.in_torch = False  # for good, when OpenVINO cannot do it

    def __call__(self, *args: Any) -> Any:
        """Return what the part's call returns."""
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
            return tree_unflatten(_inferred(self._requests[lane()], tensors), self._spec)
        except Exception as exc:  # at a size that is unlike the first
            shapes = [tuple(tensor.shape) for tensor in tensors]
            _LOG.warning("%s runs in torch at %s: %s", self.part.name, shapes, described(exc))
            return self.call(*args)

    def _compiled(self) -> Any:
        import openvino

        compiled = openvino.Core().compile_model(self._model, "CPU", self.settings)
        return compiled.create_infer_request()

    def _start(self, args: tuple[Any, ...]) -> None:
        """Compile, and compare with torch on the first rows."""
        from torch.utils._pytree import tree_flatten, tree_map

        few = tree_map(lambda tensor: tensor[:2].clone(), args)
        expected, self._spec = tree_flatten(self.call(*few))
        try:
            self._model = converted(self.part, self.call, few)
            self._requests = [self._compiled() for _ in range(self.forwards)]
            found = _inferred(self._requests[0], tree_flatten(few)[0])
            for got, want in zip(found, expected, strict=True):
                _compare(got.numpy(), want.numpy(), self.tolerance)
        except Exception as exc:  # of many kinds: it is torch's tracer, OpenVINO or the comparison
            _LOG.warning(
                "%s stays in torch: OpenVINO fails with %s", self.part.name, described(exc)
            )
            self.in_torch = True


def _inferred(request: Any, tensors: list[Any]) -> list[Any]:
    import torch

    arrays = [tensor.contiguous().numpy() for tensor in tensors]
    found = request.infer(arrays, share_inputs=True, share_outputs=True)
    return [torch.from_numpy(array) for array in found.values()]


def _compare(got: np.ndarray[Any, Any], want: np.ndarray[Any, Any], tolerance: float) -> None:
    difference = float(np.abs(got - want).max()) if got.shape == want.shape else np.inf
    if not difference <= tolerance * max(float(np.abs(want).max()), 1e-6):
        raise ValueError(f"its result differs from torch's by {difference}")


def converted(part: Part, call: Call, args: tuple[Any, ...]) -> Any:
    """Return a part as an ``openvino.Model`` of maps of any size, or of any number of regions."""
    import openvino
    import torch
    from torch.utils._pytree import tree_flatten, tree_unflatten

    tensors, spec = tree_flatten(args)

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.owner = part.owner  # so that the tracer knows the weights

        def forward(self, *flat: Any) -> Any:
            return tuple(tree_flatten(call(*tree_unflatten(list(flat), spec)))[0])

    with warnings.catch_warnings(), torch.inference_mode(mode=False), torch.no_grad():
        warnings.simplefilter("ignore")  # that tracing is to be replaced, for each module
        example = tuple(tensor.clone() for tensor in tensors)  # inference mode's cannot be traced
        tracer: Any = torch.jit.trace
        traced = tracer(Flat().eval(), example, check_trace=False)
        model = _imported(traced)
    for port, tensor in zip(model.inputs, tensors, strict=True):
        _, channels, *rest = tensor.shape
        rest = rest if part.per_roi else [-1] * len(rest)
        port.get_node().set_partial_shape(openvino.PartialShape([-1, channels, *rest]))
    model.validate_nodes_and_infer_types()
    return model


def _imported(traced: Any) -> Any:
    """Do what ``openvino.convert_model`` does for a traced module, without its telemetry."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    frontend = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchScriptPythonDecoder(traced)  # in a name, for it must outlive ``load``
    return frontend.convert(frontend.load(decoder))
