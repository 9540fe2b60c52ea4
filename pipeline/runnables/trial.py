"""One small forward of a model that has just been loaded: what cannot run is refused at once."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import ConfigError, DeviceLostError
from pipeline.failures import described
from pipeline.records import Frame
from pipeline.runnables.options import engine_of
from pipeline.runnables.steps.postprocess import raw_output
from pipeline.runnables.steps.preprocess import Prepared, model_input

if TYPE_CHECKING:
    from pipeline.runnables.detectron2 import Detectron2

_LOG = logging.getLogger(__name__)
_SIZE = (64, 96)  # of the test image: enough for strides of 64
_BOX = (8.0, 8.0, 56.0, 40.0)


def try_out(runnable: Detectron2, module: Any) -> None:
    """Take a test image through all that a run does with a frame.

    Args:
        runnable: Entered but for this; its options decide how the module computes.
        module: Its model.

    Raises:
        ConfigError: Something raised; names the model and the cause.
    """
    pixels = np.random.default_rng(0).integers(0, 256, (*_SIZE, 3), np.uint8)
    frame = Frame(pixels, "test image")
    try:
        prepared = runnable.prepare(frame)
        if engine_of(runnable) == "compile":  # it would compile again for the size of real frames
            _run(runnable, module, frame, prepared)
            return
        try:
            _run(runnable, module, frame, as_it_is(frame))
        except ConfigError:
            raise
        except Exception as exc:  # perhaps only because the image is small
            _LOG.info("the model fails on an image of %s", _SIZE, exc_info=exc)
            _run(runnable, module, frame, prepared)
    except (ConfigError, DeviceLostError):
        raise
    except Exception as exc:  # of any kind: each layer has its own
        _LOG.info("the model fails on a test image", exc_info=exc)
        name = getattr(runnable.model, "name", "")
        raise ConfigError(
            f"model '{name}' cannot run: it fails on a test image with {described(exc)}; "
            "see model.config and model.opts"
        ) from exc


def as_it_is(frame: Frame) -> Prepared:
    """Return a frame as a model's input: its own pixels, not resized."""
    import torch

    image = torch.from_numpy(np.array(frame.image, order="C")).permute(2, 0, 1)
    return Prepared(frame.size, frame.size, image)


def _run(runnable: Detectron2, module: Any, frame: Frame, prepared: Prepared) -> None:
    import torch

    (output,) = runnable.forward([prepared])
    found = runnable.finish(frame, output)
    if output.content.get("raw") and not len(found):
        # heads that have seen no instance get one
        with torch.inference_mode():
            inputs = model_input(prepared, runnable.device)
            output.content, output.ready = _of_one_box(module, inputs), None
        runnable.finish(frame, output)


def _of_one_box(module: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    import torch
    from detectron2.modeling import GeneralizedRCNN
    from detectron2.structures import Boxes, Instances

    device = inputs["image"].device
    one = Instances(
        tuple(inputs["image"].shape[1:]),
        pred_boxes=Boxes(torch.tensor([_BOX], device=device)),
        scores=torch.ones(1, device=device),
        pred_classes=torch.zeros(1, dtype=torch.int64, device=device),
    )
    (found,) = GeneralizedRCNN.inference(module, [inputs], [one], do_postprocess=False)
    return raw_output(found, None, inputs)
