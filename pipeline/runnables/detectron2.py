"""A Detectron2 model as a runnable: equivalent to ``DefaultPredictor``, but faster.

The resize (Pillow), the color order (``INPUT.FORMAT``) and the padding are those of
``detectron2.engine.DefaultPredictor``. Unless ``exact`` is set, speed-ups apply and
the results agree within the tolerance given below; ``speedups/table.py`` lists how each affects the
results. Masks are pasted into box crops instead of full frames, with the same pixels.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import numpy as np

from pipeline.errors import ConfigError
from pipeline.protocols import Model
from pipeline.records import Frame, Predictions
from pipeline.runnables.batching import BatchSplitter, group_equal, measure_batch_size
from pipeline.runnables.concurrency import Slots, divide_threads, torch_threads
from pipeline.runnables.model_check import check_model
from pipeline.runnables.options import class_ids, engine_of, find_problems, serial_reason
from pipeline.runnables.speedups.table import (
    PUSHDOWN,
    SPEEDUPS,
    Settings,
    apply_speedups,
    part_engines,
)
from pipeline.runnables.state.snapshot import ModelState
from pipeline.runnables.state.stateless import StateRisk, find_state_risks
from pipeline.runnables.steps.fetch import fetch
from pipeline.runnables.steps.postprocess import Compute, Finish, Output, compute_function
from pipeline.runnables.steps.preprocess import Prepared, Preprocess, model_input
from pipeline.system.devices import device_name, resolve_device, translate_device_errors
from pipeline.system.memory import import_frozen
from pipeline.system.terminal import quiet_logger


@dataclass(eq=False)
class Detectron2:
    """Runs a Detectron2 model on a device.

    Attributes:
        model: The model to load.
        device: ``auto`` (``cuda:0`` if it exists, otherwise ``cpu``), ``cpu``, ``cuda`` or
            ``cuda:N``. Once entered, the device in use.
        exact: Compute in plain float32, one frame per forward, bit-identical to
            ``DefaultPredictor``. Otherwise speed-ups apply, and 99.9 % of the detections are within
            0.05 px and 1e-3 in score.
        engine: Computes the convolutions: ``torch``, ``openvino`` (CPU), ``compile``
            (torch.compile) or ``auto``, which is torch.
        precision: Precision of convolutions and linear layers: ``fp32``, ``bf16``, or on CUDA
            ``fp16``.
        batch_size: Largest number of frames per forward, which the caller of ``forward`` must not
            exceed. ``auto`` means 1 on the CPU, and as many as fit into memory on CUDA. Once
            entered, a number.
        batch_by_shape: Whether the caller groups frames of equal shape.
        forwards: Number of threads that may call ``forward`` at the same time; torch's CPU threads
            are split evenly among them. ``auto`` means one per torch thread on the CPU, at most
            four; and one on CUDA, with ``exact`` and with ``compile``. A model with modules that
            are not known to be stateless always uses one. Once entered, a number.
        resize_on_device: Resize on the device instead of with Pillow. Pixels differ by at most 1.
        cache: Directory in which OpenVINO stores compiled models.
        min_score: Instances below this score need not be computed, because a leading stage drops
            them (see ``Pushdown``).
        classes: Names of classes. Instances of other classes need not be computed.
        max_instances: Only this many instances (of ``classes``) per frame need be computed, those
            with the highest scores.
        class_names: Names by class id.
        threads: CPU threads per forward, once entered. The number affects the last digits.
        fields: Names of the optional fields of its predictions, once entered.
        warnings: Warnings to show to the user, once entered.

    Raises:
        ConfigError: Options are invalid or do not fit together; lists all problems.
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
    fields: tuple[str, ...] = field(init=False, default=())
    warnings: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.class_names = self.model.categories.thing_names
        self._module: Any = None
        self._speedups: list[dict[str, Any]] = []
        self._risks: list[StateRisk] = []
        self._state: ModelState | None = None
        self._compute_raw: Compute | None = None
        self.forwards_reason = ""
        self._splitter = BatchSplitter()
        self._slots = Slots(1)
        self._entered = ExitStack()
        if problems := list(find_problems(self)):
            raise ConfigError(*problems)

    def __enter__(self) -> Detectron2:
        """Load the weights onto the device, and prepare the engine.

        Raises:
            ConfigError: The options do not fit the device or the model, or the model cannot run.
            DeviceError: The device does not exist; lists those that do.
            StoreError: The weights are unavailable or do not fit.
        """
        import_frozen("torch")
        self.device = resolve_device(self.device)
        if problems := list(find_problems(self)):
            raise ConfigError(*(f"runnable.{problem}" for problem in problems))
        import_frozen("detectron2.modeling", "detectron2.data.transforms")
        with ExitStack() as stack:
            stack.callback(self._free)
            self._load(stack)
            self._entered = stack.pop_all()
        return self

    def _load(self, stack: ExitStack) -> None:
        quiet_logger("torch")
        kept_ids = class_ids(self, self.class_names)
        cfg, self._module = self.model.load(self.device)
        self._risks = find_state_risks(self._module)
        modified = [risk for risk in self._risks if risk.is_modified]
        self._divide_cores(stack)
        self._preprocess = Preprocess(cfg, self.device, self.resize_on_device)
        only_forward = any(not risk.where for risk in modified)
        self._compute_raw = compute_function(self._module, only_forward=only_forward)
        self._finish = Finish(self._module, self.model.categories)
        refusal = "exact=true" if self.exact else str(modified[0]) if modified else ""
        if not refusal:
            self._module.requires_grad_(False)
        settings = Settings(self, self.threads, self._risks, kept_ids)
        self._speedups = apply_speedups(SPEEDUPS, self._module, settings, refusal)
        self._state = ModelState(self._module) if self._risks else None
        with self._restored(always=True):
            self._check(cfg)
        self._speedups += apply_speedups(PUSHDOWN, self._module, settings, refusal)
        if modified and not self.exact:
            self.warnings.append(f"the model runs without d2run's speed-ups: {modified[0]}")

    def _check(self, cfg: Any) -> None:
        name = getattr(self.model, "name", "")
        # torch.compile recompiles for each new input size, so test only the resized one
        only_resized = engine_of(self) == "compile"
        found = check_model(self, self._module, name, self.device, only_resized=only_resized)
        self.fields = found.fields
        # with exact, a module that keeps state must see frames one by one, like DefaultPredictor
        if self.batch_size == "auto" or (self.exact and self._risks):
            self.batch_size = self._largest_batch(cfg)

    def __exit__(self, *exc_info: object) -> None:
        """Free the weights, and restore torch's number of threads."""
        self._entered.close()

    def _free(self) -> None:
        self._module = self._finish = self._state = None  # type: ignore[assignment]
        self._compute_raw = None
        gc.collect()  # patched methods form a reference cycle with the model
        if self.device.startswith("cuda"):
            import torch

            torch.cuda.empty_cache()

    @property
    def numerics(self) -> dict[str, Any]:
        """The options that affect the results, besides the device; needs no torch."""
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
        """Return the device in use and how it computes, for run.json.

        ``speedups`` lists all speed-ups: their names, how they affect the results
        (``exact``, ``rounding`` or ``reduced``), whether they were applied, and if not, the reason.
        """
        any_applied = any(record["applied"] for record in self._speedups)
        return {
            "device": self.device,
            "name": device_name(self.device),
            "threads": self.threads,
            "forwards": self.forwards,
            "forwards_reason": self.forwards_reason,
            "batch_size": self.batch_size,
            "parts": part_engines(self._module, engine_of(self)) if any_applied else {},
            **self.numerics,
            "speedups": self._speedups,
        }

    def predict(self, frames: Sequence[Frame]) -> list[Predictions]:
        """Return the predictions of each frame, in the frame's own pixels."""
        outputs = self.forward([self.prepare(frame) for frame in frames])
        return [self.finish(frame, output) for frame, output in zip(frames, outputs, strict=True)]

    def prepare(self, frame: Frame) -> Prepared:
        """Resize a frame and start its copy to the device; on any thread.

        Raises:
            DeviceLostError: The device failed permanently. ``forward`` and ``finish`` raise it too.
        """
        with translate_device_errors(self.device):
            return self._preprocess(frame)

    def forward(self, prepared: Sequence[Prepared]) -> list[Output]:
        """Run the model; up to ``forwards`` threads may call it at the same time.

        Only inputs of equal shape share a forward, so that none needs padding.

        Raises:
            torch.OutOfMemoryError: A single frame does not fit on the device.
        """
        import torch

        outputs: dict[int, Output] = {}
        with self._slots.acquire(), torch.inference_mode(), translate_device_errors(self.device):
            shapes = [item.shape for item in prepared]
            # exact: one forward per frame, in order
            for indices in group_equal(range(len(prepared)) if self.exact else shapes):
                found = self._splitter(self._compute, [prepared[i] for i in indices])
                outputs |= zip(indices, found, strict=True)
        return [outputs[i] for i in range(len(prepared))]

    def finish(self, frame: Frame, output: Output) -> Predictions:
        """Scale predictions to the frame's pixels and paste their masks; on any thread."""
        import torch

        with torch.inference_mode(), translate_device_errors(self.device):
            if output.ready is not None:
                output.ready.synchronize()
            return self._finish(output.content, frame.size)

    def _compute(self, prepared: Sequence[Prepared]) -> list[Output]:
        inputs = [model_input(item, self.device) for item in prepared]
        with self._restored(always=False):  # a failed forward must not change the next one
            assert self._compute_raw is not None  # set when entered
            contents = self._compute_raw(inputs)
        if self.exact:  # like DefaultPredictor, ``finish`` computes on the device
            return [Output(content) for content in contents]
        contents, ready = fetch(contents)
        return [Output(content, ready) for content in contents]

    def _restored(self, *, always: bool) -> AbstractContextManager[None]:
        """Restore the state of the model after a forward that raised, or ``always``."""
        return self._state.restored(always=always) if self._state else nullcontext()

    def _divide_cores(self, stack: ExitStack) -> None:
        import torch

        risk = str(self._risks[0]) if self._risks else ""
        if risk and self.forwards not in ("auto", 1):
            self.warnings.append(f"runnable.forwards={self.forwards} is reduced to 1: {risk}")
        chosen = "auto: one per thread, up to 4" if self.forwards == "auto" else "as configured"
        reason = risk or serial_reason(self)
        self.forwards_reason = reason or chosen
        if self.device != "cpu":
            self.forwards = 1
            return
        forwards = 1 if reason else self.forwards
        self.forwards, self.threads = divide_threads(forwards, torch.get_num_threads())
        self._slots = Slots(self.forwards)
        stack.enter_context(torch_threads(self.threads))

    def _largest_batch(self, cfg: Any) -> int:
        if self.exact or self.device == "cpu":
            return 1
        longest = cfg.INPUT.MAX_SIZE_TEST
        largest = Frame(np.zeros((cfg.INPUT.MIN_SIZE_TEST or longest, longest, 3), np.uint8), "")
        return measure_batch_size(lambda: self.forward([self.prepare(largest)]), self.device)
