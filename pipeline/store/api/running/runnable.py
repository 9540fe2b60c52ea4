"""The runnable of a stored model: an object with one method per signature."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.store.api.building import load_version, stored_cfg
from pipeline.store.api.running.arguments import split_arguments
from pipeline.store.disk.version import ModelVersion
from pipeline.system.devices import resolve_device

_FORWARDS = ("__call__", "forward")  # methods with one output per image


class StoredRunnable:
    """Loads a stored model onto a device and calls its methods in inference mode.

    An image is a NumPy array ``(H, W, 3)``, uint8, BGR, or a tensor ``(3, H, W)``. A model that was
    saved as a predictor resizes it according to the config, and reads a tensor as BGR. A model that
    was saved as a module does not resize it, like Detectron2's modules: an array is converted to
    the channel order of ``INPUT.FORMAT``, a tensor must have it already. A mapping with the keys of
    Detectron2's inputs is passed through. Results are in pixels of the given image.

    Further arguments are those of the model's method, which has the images as its first.

    Args:
        device_id: ``auto`` (cuda:0 if there is one, else cpu), ``cpu``, ``cuda``, ``cuda:N``; by
            default the one in the model's options.
    """

    stored: ModelVersion

    def __init__(self, device_id: str | None = None) -> None:
        options = self.stored.info.options
        self.device_id = resolve_device(device_id or options.device_id)
        self.model: Any = load_version(
            self.stored, self.device_id, trust=self.stored.trust, verify=True
        )
        self._partial_kwargs = options.partial_kwargs
        self._is_predictor = self.stored.info["kind"] != "module"
        self._module: Any = self.model.model if self._is_predictor else self.model
        self._format = stored_cfg(self.stored).INPUT.FORMAT

    def _run(self, name: str, options: Mapping[str, Any], args: Any, kwargs: Any) -> Any:
        import torch

        single = self._is_predictor and not options["batchable"]
        images, others, named = split_arguments(
            self._documented(name),
            name,
            options,
            args,
            {**self._partial_kwargs.get(name, {}), **kwargs},
            single=single,
        )
        inputs = [self._input(image) for image in images]
        moved = [self._to_device(value) for value in others]
        named = {key: self._to_device(value) for key, value in named.items()}
        method = self._module if name == "__call__" else getattr(self._module, name)
        with torch.inference_mode():
            if name not in _FORWARDS:
                return method(inputs, *moved, **named)
            outputs: list[Any] = [None] * len(inputs)
            for positions in self._batches(inputs):
                found = method([inputs[i] for i in positions], *moved, **named)
                for i, output in zip(positions, found, strict=True):
                    outputs[i] = output
        return outputs[0] if single else outputs

    def _documented(self, name: str) -> Callable[..., Any]:
        """Return the method whose arguments a caller knows."""
        owner = self.model if self._is_predictor and name == "__call__" else self._module
        is_module_call = name == "__call__" and not self._is_predictor
        method: Callable[..., Any] = getattr(owner, "forward" if is_module_call else name)
        return method

    def _batches(self, inputs: list[dict[str, Any]]) -> list[list[int]]:
        """Return the positions that share a forward: one on the CPU, otherwise those of equal size.

        So padding never changes a result, and on the CPU a batch gives the same results as single
        calls.
        """
        groups: dict[Any, list[int]] = {}
        for i, item in enumerate(inputs):
            shape = tuple(item["image"].shape)
            groups.setdefault(i if self.device_id == "cpu" else shape, []).append(i)
        return list(groups.values())

    def _input(self, given: Any) -> dict[str, Any]:
        import torch

        if isinstance(given, Mapping):
            return {key: self._to_device(value) for key, value in given.items()}
        if not self._is_predictor and isinstance(given, torch.Tensor):
            height, width = given.shape[-2:]
            return {"image": given.to(self.device_id), "height": height, "width": width}
        image = _hwc(given)
        height, width = image.shape[:2]
        if self._format == "RGB":
            image = image[:, :, ::-1]
        if self._is_predictor:
            image = self.model.aug.get_transform(image).apply_image(image)
        tensor = torch.as_tensor(image.astype("float32").transpose(2, 0, 1)).to(self.device_id)
        return {"image": tensor, "height": height, "width": width}

    def _to_device(self, value: Any) -> Any:
        import torch

        if isinstance(value, np.ndarray):
            value = torch.as_tensor(value)
        return value.to(self.device_id) if isinstance(value, torch.Tensor) else value


def plain_runnable(model: ModelVersion) -> type[StoredRunnable]:
    """Return the class for a stored model, which does not require BentoML."""
    signatures = model.info["signatures"].items()
    methods = {name: runnable_method(name, options) for name, options in signatures}
    return type("Detectron2Runnable", (StoredRunnable,), {"stored": model, **methods})


def batch_dims(name: str, options: Mapping[str, Any]) -> tuple[int, int]:
    """Return the dimensions that count the images of a method's input and output."""
    dim = options.get("batch_dim") or 0
    given, returned = (dim, dim) if isinstance(dim, int) else dim
    return given, 0 if name in _FORWARDS else returned  # they return a list of outputs


def runnable_method(name: str, options: Mapping[str, Any]) -> Callable[..., Any]:
    """Return the function of a runnable that calls a method of the model."""

    def call(self: StoredRunnable, *args: Any, **kwargs: Any) -> Any:
        return self._run(name, options, args, kwargs)

    call.__name__ = name
    call.__doc__ = f"Call the model's ``{name}``."
    return call


def _hwc(given: Any) -> NDArray[Any]:
    """Return an image as an array ``(H, W, 3)``."""
    is_tensor = hasattr(given, "detach")
    image = given.detach().cpu().numpy() if is_tensor else np.asarray(given)
    if image.ndim != 3 or 3 not in (image.shape[0], image.shape[2]):
        raise ConfigError(
            "expected an image, an array (H, W, 3) or a tensor (3, H, W), got the shape "
            f"{image.shape}"
        )
    if image.shape[2] != 3 or (is_tensor and image.shape[0] == 3):
        image = image.transpose(1, 2, 0)
    rounded = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    # Pillow resizes uint8; a float tensor of whole numbers is the same image
    return rounded if np.array_equal(rounded, image) else image
