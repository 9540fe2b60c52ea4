"""The speed-ups in the order in which they are applied, and the effect of each on the results."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.runnables.options import Options, engine_of
from pipeline.runnables.speedups.exact.inputs import normalize_with_one_copy
from pipeline.runnables.speedups.exact.proposals import decode_best_proposals
from pipeline.runnables.speedups.exact.pushdown import push_down
from pipeline.runnables.speedups.parts import parts
from pipeline.runnables.speedups.reduced.precision import lower_precision
from pipeline.runnables.speedups.rounding.compile import compile_with_torch
from pipeline.runnables.speedups.rounding.memory_format import use_channels_last
from pipeline.runnables.speedups.rounding.norms import fold_norms
from pipeline.runnables.speedups.rounding.onednn import fuse_layers
from pipeline.runnables.speedups.rounding.openvino import compile_with_openvino, is_compiled
from pipeline.runnables.speedups.rounding.pooling import pool_by_sums, pools_by_sums
from pipeline.runnables.state.stateless import StateRisk


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings that decide which speed-ups apply to a model.

    Attributes:
        options: The runnable's options, with the device and the number of forwards in use.
        threads: Threads of the CPU per forward; ``None`` on other devices.
        risks: Modules that are not known to be stateless.
        class_ids: Ids of ``options.classes``; ``None`` for all.
    """

    options: Options
    threads: int | None = None
    risks: Sequence[StateRisk] = ()
    class_ids: Collection[int] | None = None

    @property
    def engine(self) -> str:
        """The engine that computes the convolutions."""
        return engine_of(self.options)

    @property
    def on_cpu(self) -> bool:
        """Whether the device is the CPU."""
        return self.options.device == "cpu"


@dataclass(frozen=True, slots=True)
class Speedup:
    """A faster way to compute part of a model.

    Attributes:
        name: The name in run.json.
        numerics: The effect on the results: ``exact`` keeps every bit, ``rounding`` changes the
            last digits of float32, ``reduced`` changes more.
        apply: Changes the model in place and returns true, or returns why it does not apply.
    """

    name: str
    numerics: Literal["exact", "rounding", "reduced"]
    apply: Callable[[Any, Settings], bool | str]


def apply_speedups(
    speedups: Iterable[Speedup], module: Any, settings: Settings, refusal: str = ""
) -> list[dict[str, Any]]:
    """Apply speed-ups to a model, in order.

    Args:
        speedups: The speed-ups, such as ``SPEEDUPS``.
        module: A Detectron2 model in eval mode, on its device.
        settings: Decides which speed-ups apply.
        refusal: If not empty, the reason why no speed-up may be applied.

    Returns:
        One record per speed-up for run.json: ``name``, ``numerics``, ``applied`` and, if it was
        not applied, the ``reason``.
    """
    records = []
    for speedup in speedups:
        result = refusal or speedup.apply(module, settings)
        record = {"name": speedup.name, "numerics": speedup.numerics, "applied": result is True}
        records.append(record if result is True else record | {"reason": result})
    return records


def part_engines(module: Any, engine: str) -> dict[str, str]:
    """Return which engine computes each part of a model that ``SPEEDUPS`` were applied to."""
    return {
        part.name: "torch" if engine == "openvino" and not is_compiled(part) else engine
        for part in parts(module)
    }


def _fold_norms(module: Any, _: Settings) -> bool | str:
    return fold_norms(module) > 0 or "the model has no batch norm after a convolution"


def _decode_best_proposals(module: Any, _: Settings) -> bool | str:
    return decode_best_proposals(module) or "the model does not have Detectron2's RPN"


def _pool_by_sums(module: Any, settings: Settings) -> bool | str:
    if not settings.on_cpu:
        return "it is for the CPU"
    return pool_by_sums(module) or "the model does not pool with ROIAlign only"


def _compile_with_openvino(module: Any, settings: Settings) -> bool | str:
    if settings.engine != "openvino":
        return f"engine={settings.engine}"
    options = settings.options
    is_applied = compile_with_openvino(
        module,
        options.precision,
        forwards=int(options.forwards),
        threads=settings.threads or 0,
        cache=options.cache,
        risks=settings.risks,
    )
    return is_applied or "the model has no part that OpenVINO can compute"


def _normalize_in_place(module: Any, settings: Settings) -> bool | str:
    if settings.engine == "openvino":  # takes planes, not the channels_last format
        return "engine=openvino"
    return normalize_with_one_copy(module) or "the model prepares its inputs in a custom way"


def _use_channels_last(module: Any, settings: Settings) -> bool | str:
    if settings.engine == "openvino":
        return "engine=openvino"
    use_channels_last(module, pools_planes=not pools_by_sums(module))
    return True


def _fuse_layers(module: Any, settings: Settings) -> bool | str:
    if not settings.on_cpu:
        return "it is for the CPU"
    if settings.engine != "torch":
        return f"engine={settings.engine}"
    return fuse_layers(module, _dtype(settings)) or "torch has no fused operators on this CPU"


def _lower_precision(module: Any, settings: Settings) -> bool | str:
    dtype = _dtype(settings)
    if dtype is None:
        return "precision=fp32"
    if settings.engine == "openvino":  # compile_with_openvino sets its precision
        is_applied = any(map(is_compiled, parts(module)))
    else:
        is_applied = lower_precision(module, dtype)
    return is_applied or "the model has no part whose precision can be lowered"


def _compile_with_torch(module: Any, settings: Settings) -> bool | str:
    if settings.engine != "compile":
        return f"engine={settings.engine}"
    return compile_with_torch(module) or "the model has no part that can be compiled"


def _resize_on_device(_: Any, settings: Settings) -> bool | str:
    # applied by steps.preprocess; in the table because it changes results
    return settings.options.resize_on_device or "resize_on_device=false"


def _push_down(module: Any, settings: Settings) -> bool | str:
    options = settings.options
    is_applied = push_down(module, options.min_score, options.max_instances, settings.class_ids)
    if not options.min_score and options.max_instances is None and settings.class_ids is None:
        return "no leading stage drops instances"
    return is_applied or "the model selects instances in a custom way"


def _dtype(settings: Settings) -> Any:
    import torch

    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(settings.options.precision)


SPEEDUPS = (
    Speedup("resize_on_device", "reduced", _resize_on_device),
    Speedup("fold_norms", "rounding", _fold_norms),
    Speedup("decode_best_proposals", "exact", _decode_best_proposals),
    Speedup("pool_by_sums", "rounding", _pool_by_sums),
    Speedup("openvino", "rounding", _compile_with_openvino),
    Speedup("normalize_in_place", "exact", _normalize_in_place),
    Speedup("channels_last", "rounding", _use_channels_last),
    Speedup("fuse_layers", "rounding", _fuse_layers),
    Speedup("lower_precision", "reduced", _lower_precision),
    Speedup("compile", "rounding", _compile_with_torch),
)
# after the model has been checked, because the check needs all instances of the test image
PUSHDOWN = (Speedup("pushdown", "exact", _push_down),)
