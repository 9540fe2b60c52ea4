"""Runs one small forward after loading, to reject models that cannot run."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from pipeline.errors import ConfigError, DeviceLostError
from pipeline.failures import described
from pipeline.protocols import PipelinedRunnable
from pipeline.records import Frame, Predictions
from pipeline.runnables.steps.postprocess import raw_output
from pipeline.runnables.steps.preprocess import model_input, prepare_unresized

_LOG = logging.getLogger(__name__)
_SIZE = (64, 96)  # of the test image: enough for strides of 64
_BOX = (8.0, 8.0, 56.0, 40.0)


def check_model(
    runnable: PipelinedRunnable, module: Any, name: str, device: str, *, only_resized: bool
) -> Predictions:
    """Run a test image through all steps of a runnable.

    Args:
        runnable: A ``Detectron2`` whose model is loaded.
        module: The model.
        name: Name of the model, for the message.
        device: Torch's name of the device.
        only_resized: Whether to try only the size that frames are resized to, because other sizes
            would trigger a slow recompilation.

    Returns:
        The predictions for the test image.

    Raises:
        ConfigError: A step failed; names the model and the cause.
    """
    pixels = np.random.default_rng(0).integers(0, 256, (*_SIZE, 3), np.uint8)
    frame = Frame(pixels, "test image")
    try:
        prepared = runnable.prepare(frame)
        if only_resized:
            return _run(runnable, module, device, frame, prepared)
        try:
            return _run(runnable, module, device, frame, prepare_unresized(frame))
        except ConfigError:
            raise
        except Exception as exc:  # perhaps only because the image is small
            _LOG.info("the model fails on an image of %s", _SIZE, exc_info=exc)
            return _run(runnable, module, device, frame, prepared)
    except (ConfigError, DeviceLostError):
        raise
    except Exception as exc:  # custom layers raise all kinds
        _LOG.info("the model fails on a test image", exc_info=exc)
        raise ConfigError(
            f"model '{name}' cannot run: it fails on a test image with {described(exc)}; "
            "check model.config and model.opts"
        ) from exc


def _run(
    runnable: PipelinedRunnable, module: Any, device: str, frame: Frame, prepared: Any
) -> Predictions:
    import torch

    (output,) = runnable.forward([prepared])
    found = runnable.finish(frame, output)
    if output.content.get("raw") and not len(found):
        # without instances, the mask and keypoint heads did not run
        with torch.inference_mode():
            inputs = model_input(prepared, device)
            output.content, output.ready = _with_one_box(module, inputs), None
        found = runnable.finish(frame, output)
    return found


def _with_one_box(module: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    import torch
    from detectron2.modeling import GeneralizedRCNN
    from detectron2.structures import Boxes, Instances

    device = inputs["image"].device
    instances = Instances(
        tuple(inputs["image"].shape[1:]),
        pred_boxes=Boxes(torch.tensor([_BOX], device=device)),
        scores=torch.ones(1, device=device),
        pred_classes=torch.zeros(1, dtype=torch.int64, device=device),
    )
    (found,) = GeneralizedRCNN.inference(module, [inputs], [instances], do_postprocess=False)
    return raw_output(found, None, inputs)
