"""Which options of a Detectron2 model go together, and what they come to."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.runnables.detectron2 import Detectron2

_ENGINES = ("auto", "torch", "openvino", "compile")
_PRECISIONS = ("fp32", "bf16", "fp16")
_MOST_FORWARDS = 1024


def engine_of(options: Detectron2) -> str:
    """Return what computes the convolutions."""
    if options.exact:
        return "torch"
    return "torch" if options.engine == "auto" else options.engine


def takes_turns(options: Detectron2) -> str:
    """Return why one forward at a time is all that it can do; empty if it can do more."""
    if options.exact:
        return "exact runs one forward at a time"
    if options.engine == "compile":  # torch's tables of it are not made for several threads
        return "engine compile runs one forward at a time"
    return "CUDA runs one forward at a time" if options.device.startswith("cuda") else ""


def problems(options: Detectron2) -> Iterator[str]:
    """Say what is wrong with the options, or does not go together; more if the device is known."""
    on_cuda, engine = options.device.startswith("cuda"), engine_of(options)
    batch_size, forwards = options.batch_size, options.forwards
    if options.engine not in _ENGINES:
        yield f"engine '{options.engine}' is none of {', '.join(_ENGINES)}"
    if options.precision not in _PRECISIONS:
        yield f"precision '{options.precision}' is none of {', '.join(_PRECISIONS)}"
    if options.engine == "openvino" and on_cuda:
        yield f"engine openvino runs on the CPU, not on {options.device}"
    elif options.engine == "openvino" and not find_spec("openvino"):
        yield "engine openvino is not installed; pip install 'd2run[openvino]'"
    if options.cache == "":
        yield "cache is empty; it must be a folder, or null for none"
    elif options.cache is not None and options.engine != "openvino":
        yield "cache is for what OpenVINO compiles; leave it out, or add engine=openvino"
    if options.precision == "fp16" and (options.device == "cpu" or engine == "openvino"):
        yield "precision fp16 needs a CUDA device; bf16 runs everywhere"
    if options.exact and (options.engine not in ("auto", "torch") or options.precision != "fp32"):
        yield "exact is plain torch in fp32; leave engine and precision out, or exact"
    if options.exact and options.resize_on_device:
        yield "exact resizes with Pillow; leave out resize_on_device, or exact"
    if batch_size != "auto" and not (type(batch_size) is int and batch_size > 0):
        yield f"batch_size is {batch_size}; it must be at least 1, or auto"
    if forwards != "auto" and not (type(forwards) is int and forwards > 0):
        yield f"forwards is {forwards}; it must be at least 1, or auto"
    elif isinstance(forwards, int) and forwards > _MOST_FORWARDS:
        yield f"forwards is {forwards}; it must be at most {_MOST_FORWARDS}"
    elif forwards not in ("auto", 1) and takes_turns(options):
        yield "exact, engine compile and CUDA run one forward at once; leave out forwards"
    if not 0 <= options.min_score <= 1:
        yield f"min_score is {options.min_score}; it must be between 0 and 1"
    if options.max_instances is not None and options.max_instances < 0:
        yield f"max_instances is {options.max_instances}; it must be at least 0"
