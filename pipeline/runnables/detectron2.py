"""A Detectron2 model as a runnable: what ``DefaultPredictor`` computes, in less time.

The resize (Pillow), the colour order (``INPUT.FORMAT``) and the padding are those of
``detectron2.engine.DefaultPredictor``; the arithmetic is rearranged unless ``exact`` is asked for;
masks are pasted into their box crops, never into full frames, with the same pixels as a result.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import numpy as np

from pipeline.errors import ConfigError, did_you_mean
from pipeline.protocols import Model
from pipeline.records import Frame, Predictions
from pipeline.runnables.forwards import Lanes, at_once, torch_threads
from pipeline.runnables.memory import Halving, frames_that_fit, groups
from pipeline.runnables.options import engine_of, problems, takes_turns
from pipeline.runnables.speedups.table import apply_speedups
from pipeline.runnables.state.snapshot import State
from pipeline.runnables.state.stateless import Doubt, doubts
from pipeline.runnables.steps.fetch import fetch
from pipeline.runnables.steps.postprocess import Compute, Finish, computing
from pipeline.runnables.steps.preprocess import Prepared, Preprocess, model_input
from pipeline.runnables.thresholds import ask_for_less
from pipeline.runnables.trial import try_out
from pipeline.system.devices import device_name, resolve_device, told_if_lost
from pipeline.system.memory import import_for_good


@dataclass(slots=True)
class Output:
    """What ``forward`` leaves of one frame.

    Attributes:
        content: As ``postprocess.compute`` describes it.
        ready: On CUDA, an event after which the content is on the host.
    """

    content: dict[str, Any]
    ready: Any = None

    @property
    def nbytes(self) -> int:
        """Of its tensors."""
        tensors = [*self.content.get("instances", {}).values(), self.content.get("sem_seg")]
        return sum(getattr(tensor, "nbytes", 0) for tensor in tensors)


@dataclass(eq=False)
class Detectron2:
    """Runs a Detectron2 model on a device.

    Attributes:
        model: What to load.
        device: ``auto`` (cuda:0 if there is one, else cpu), ``cpu``, ``cuda``, ``cuda:N``; once
            entered, the device in use.
        exact: Plain float32, one frame a forward whatever the batch: ``DefaultPredictor`` to the
            bit. Otherwise the arithmetic is rearranged: 99.9 % of the detections are within 0.05
            px and 1e-3 in score.
        engine: What computes the convolutions: ``torch``, ``openvino`` (CPU), ``compile``
            (torch.compile), or ``auto``: torch.
        precision: ``fp32``; ``bf16``, or on CUDA ``fp16``, for the convolutions and linear layers.
        batch_size: Frames per forward at most; ``auto`` is 1 on the CPU and on CUDA what fits. Once
            entered, a number. The caller of ``forward`` keeps to it.
        batch_by_shape: Whether the caller brings frames of equal shape together.
        forwards: On how many threads ``forward`` may be called at a time; torch's threads are
            shared out among them. ``auto``: on the CPU as many as torch has threads, up to four;
            one on CUDA, for ``exact`` and for ``compile``. One, whatever was given, for a model
            with modules that are not known to be stateless. Once entered, a number.
        resize_on_device: Resize there instead of with Pillow: within one of 256 levels of it.
        cache: Folder in which OpenVINO keeps what it compiles.
        min_score: Instances below it are dropped later anyway, so the model need not find them.
        classes: Names; instances of others are dropped later anyway.
        max_instances: Only this many instances (of ``classes``) per frame, those with the highest
            scores, are kept later.
        class_names: Names by class id.
        threads: Of the CPU for each forward, once entered; their number moves the last digits.
        warnings: Sentences for people that belong to the results, once entered.

    Raises:
        ConfigError: The options do not fit together; lists all problems.
    """

    model: Model
    device: str = "auto"
    exact: bool = False
    engine: str = "auto"
    precision: str = "fp32"
    batch_size: int | str = 1
    batch_by_shape: bool = True
    forwards: int | str = 1
    resize_on_device: bool = False
    cache: str | None = None
    min_score: float = 0.0
    classes: Sequence[str | int] | None = None
    max_instances: int | None = None
    class_names: tuple[str, ...] = field(init=False)
    threads: int | None = field(init=False, default=None)
    warnings: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.class_names = self.model.categories.thing_names
        self._module: Any = None
        self._parts: Callable[[], dict[str, str]] = dict
        self._doubts: list[Doubt] = []
        self._state: State | None = None
        self._compute_raw: Compute | None = None
        self.forwards_reason = ""
        self._memory = Halving()
        self._lanes = Lanes(1)
        self._entered = ExitStack()
        if found := list(problems(self)):
            raise ConfigError(*found)

    def __enter__(self) -> Detectron2:
        """Load the weights onto the device, and prepare the engine.

        Raises:
            ConfigError: The options do not fit the device or the model, or the model cannot work.
            DeviceError: The device does not exist; names those that do.
            StoreError: The weights cannot be had or do not fit.
        """
        import_for_good("torch")
        self.device = resolve_device(self.device)
        if found := list(problems(self)):
            raise ConfigError(*found)
        import_for_good("detectron2.modeling", "detectron2.data.transforms")
        with ExitStack() as stack:
            stack.callback(self._free)
            self._load(stack)
            self._entered = stack.pop_all()
        return self

    def _load(self, stack: ExitStack) -> None:
        _to_the_log("torch")
        wanted = self._wanted()
        cfg, self._module = self.model.load(self.device)
        self._doubts = doubts(self._module)
        self._share_the_cores(stack)
        self._preprocess = Preprocess(cfg, self.device, self.resize_on_device)
        self._compute_raw = computing(self._module, self._doubts)
        self._finish = Finish(self._module, self.model.categories)
        changed = [doubt for doubt in self._doubts if doubt.changed]
        if not (self.exact or changed):
            self._parts = apply_speedups(self, self._module, self._doubts)
        self._state = State(self._module) if self._doubts else None
        with self._restored(always=True):
            try_out(self, self._module)
            if self.batch_size == "auto" or (self.exact and self._doubts):
                self.batch_size = self._fitting(cfg)
        if changed and not self.exact:
            self.warnings.append(f"the model runs without d2run's speed-ups: {changed[0]}")
        elif not self.exact:
            ask_for_less(self._module, self.min_score, self.max_instances, wanted)

    def __exit__(self, *exc_info: object) -> None:
        """Free the weights, and give torch its threads back."""
        self._entered.close()

    def _free(self) -> None:
        self._module = self._finish = self._state = None  # type: ignore[assignment]
        self._compute_raw, self._parts = None, dict
        gc.collect()  # what was put into a model refers to it
        if self.device.startswith("cuda"):
            import torch

            torch.cuda.empty_cache()

    @property
    def numerics(self) -> dict[str, Any]:
        """What moves digits beside the device and its threads; known before torch is imported."""
        engine = engine_of(self)
        return {
            "exact": self.exact,
            "engine": engine,
            "openvino": metadata.version("openvino") if engine == "openvino" else None,
            "precision": self.precision,
            "resize_on_device": self.resize_on_device,
            "min_score": None if self.exact else self.min_score,
            "classes": None if self.exact or self.classes is None else list(self.classes),
            "max_instances": None if self.exact else self.max_instances,
        }

    def describe(self) -> dict[str, Any]:
        """Return the device in use, its name, and how it computes, for the record."""
        where = {"device": self.device, "name": device_name(self.device), "threads": self.threads}
        share = {"forwards": self.forwards, "forwards_reason": self.forwards_reason}
        more = {"batch_size": self.batch_size, "parts": self._parts()}
        return where | share | more | self.numerics

    def predict(self, frames: Sequence[Frame]) -> list[Predictions]:
        """Return the predictions of each frame, in the frame's own pixels."""
        outputs = self.forward([self.prepare(frame) for frame in frames])
        return [self.finish(frame, output) for frame, output in zip(frames, outputs, strict=True)]

    def prepare(self, frame: Frame) -> Prepared:
        """Resize a frame and start to send it to the device; on any thread.

        Raises:
            DeviceLostError: As ``forward`` and ``finish`` do, when the device failed for good.
        """
        with told_if_lost(self.device):
            return self._preprocess(frame)

    def forward(self, prepared: Sequence[Prepared]) -> list[Output]:
        """Run the model; on as many threads at once as ``forwards`` says.

        Only inputs of equal shape share a forward, so none is padded for the sake of another.

        Raises:
            torch.OutOfMemoryError: A single frame does not fit on the device.
        """
        import torch

        outputs: dict[int, Output] = {}
        with self._lanes.taken(), torch.inference_mode(), told_if_lost(self.device):
            shapes = [item.shape for item in prepared]
            # exact: one by one, in order
            for positions in groups(range(len(prepared)) if self.exact else shapes):
                found = self._memory(self._compute, [prepared[i] for i in positions])
                outputs |= zip(positions, found, strict=True)
        return [outputs[i] for i in range(len(prepared))]

    def finish(self, frame: Frame, output: Output) -> Predictions:
        """Scale to the frame's pixels and paste the masks; on any thread."""
        import torch

        with torch.inference_mode(), told_if_lost(self.device):
            if output.ready is not None:
                output.ready.synchronize()
            return self._finish(output.content, frame.size)

    def _compute(self, prepared: Sequence[Prepared]) -> list[Output]:
        inputs = [model_input(item, self.device) for item in prepared]
        with self._restored(always=False):  # or the next forward would begin with half of this one
            assert self._compute_raw is not None  # it is entered
            contents = self._compute_raw(inputs)
        if self.exact:  # DefaultPredictor does the rest on the device
            return [Output(content) for content in contents]
        contents, ready = fetch(contents)
        return [Output(content, ready) for content in contents]

    def _restored(self, *, always: bool) -> AbstractContextManager[None]:
        """Put the state of the model back after a forward that raised, or ``always``."""
        return self._state.restored(always=always) if self._state else nullcontext()

    def _share_the_cores(self, stack: ExitStack) -> None:
        import torch

        doubt = str(self._doubts[0]) if self._doubts else ""
        if doubt and self.forwards not in ("auto", 1):
            self.warnings.append(f"runnable.forwards={self.forwards} is reduced to 1: {doubt}")
        why = "auto: one per thread, up to 4" if self.forwards == "auto" else "as configured"
        self.forwards_reason = doubt or takes_turns(self) or why
        if self.device != "cpu":
            self.forwards = 1
            return
        wanted = 1 if doubt or takes_turns(self) else self.forwards
        self.forwards, self.threads = at_once(wanted, torch.get_num_threads())
        self._lanes = Lanes(self.forwards)
        stack.enter_context(torch_threads(self.threads))

    def _wanted(self) -> list[int] | None:
        if self.exact or self.classes is None:
            return None
        wanted = set(map(str, self.classes))  # YAML reads [0, 1], the classes of digits, as numbers
        if unknown := wanted - set(self.class_names):
            hints = (f"'{n}'{did_you_mean(n, self.class_names)}" for n in sorted(unknown))
            raise ConfigError(*(f"runnable.classes: the model finds no {hint}" for hint in hints))
        return [i for i, name in enumerate(self.class_names) if name in wanted]

    def _fitting(self, cfg: Any) -> int:
        if self.exact or self.device == "cpu":
            return 1
        longest = cfg.INPUT.MAX_SIZE_TEST
        largest = Frame(np.zeros((cfg.INPUT.MIN_SIZE_TEST or longest, longest, 3), np.uint8), "")
        return frames_that_fit(lambda: self.forward([self.prepare(largest)]), self.device)


def _to_the_log(name: str) -> None:
    """Keep what a library says of itself off the terminal; errors still show."""
    logger = logging.getLogger(name)
    logger.propagate = True
    for handler in logger.handlers:
        handler.setLevel(logging.ERROR)
