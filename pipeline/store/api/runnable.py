"""A stored model with BentoML's interface: a class with one method per signature."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.store.api.building import load_version, stored_cfg
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

    Args:
        device_id: ``auto`` (cuda:0 if there is one, else cpu), ``cpu``, ``cuda``, ``cuda:N``.
    """

    stored: ModelVersion

    def __init__(self, device_id: str = "auto") -> None:
        self.device_id = resolve_device(device_id)
        self.model: Any = load_version(
            self.stored, self.device_id, trust=self.stored.trust, verify=True
        )
        self._is_predictor = self.stored.info["kind"] != "module"
        self._module: Any = self.model.model if self._is_predictor else self.model
        self._format = stored_cfg(self.stored).INPUT.FORMAT

    def _run(self, name: str, options: Mapping[str, Any], args: Any, kwargs: Any) -> Any:
        import torch

        single = self._is_predictor and not options["batchable"]
        images, others = _split(args, name, options, single)
        inputs = [self._input(image) for image in images]
        moved = [self._to_device(value) for value in others]
        named = {key: self._to_device(value) for key, value in kwargs.items()}
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


def make_runnable(model: ModelVersion) -> type:
    """Return a subclass of StoredRunnable; see ``pipeline.store.get_runnable``."""
    methods = {name: _method(name, options) for name, options in model.info["signatures"].items()}
    return type("Detectron2Runnable", (StoredRunnable,), {"stored": model, **methods})


def _method(name: str, options: Mapping[str, Any]) -> Callable[..., Any]:
    def call(self: StoredRunnable, *args: Any, **kwargs: Any) -> Any:
        return self._run(name, options, args, kwargs)

    call.__name__ = name
    call.__doc__ = f"Call the model's ``{name}``."
    return call


def _split(
    args: Sequence[Any], name: str, options: Mapping[str, Any], single: bool
) -> tuple[list[Any], list[Any]]:
    """Return the images and the other arguments."""
    if not args:
        raise ConfigError(
            f"{name}: expected an image, an array (H, W, 3) BGR or a tensor (3, H, W)"
        )
    first = args[0]
    is_batch = isinstance(first, (list, tuple)) or getattr(first, "ndim", 0) == 4
    if options["batchable"]:
        if not is_batch:
            raise ConfigError(
                f"{name} is batchable: expected a list of images, or an array of four dimensions"
            )
        return _unstack(first, options.get("batch_dim", 0)), list(args[1:])
    if is_batch:
        raise ConfigError(
            f"{name} accepts one image per call; to pass several, save the model with "
            f"signatures={{'{name}': {{'batchable': True}}}}"
        )
    images = [first] if single else [value for value in args if _is_image(value)]
    return images, [value for value in args if not any(value is image for image in images)]


def _is_image(value: Any) -> bool:
    return isinstance(value, Mapping) or getattr(value, "ndim", 0) == 3


def _unstack(batch: Any, batch_dim: int | Sequence[int]) -> list[Any]:
    if isinstance(batch, (list, tuple)):
        return list(batch)
    dim = batch_dim if isinstance(batch_dim, int) else batch_dim[0]
    if isinstance(batch, np.ndarray):
        return list(np.moveaxis(batch, dim, 0))
    return list(batch.movedim(dim, 0))


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


class LocalRunner:
    """The runner of BentoML's ``to_runner()``, in this process.

    Args:
        model: The model.
        name: The runner's name, as in BentoML; only for display.
    """

    def __init__(self, model: ModelVersion, name: str) -> None:
        self.name = name
        self._model = model
        self._methods = list(model.info["signatures"])
        self._instance: Any = None

    def init_local(self, device_id: str = "auto") -> None:
        """Load the model; otherwise it is loaded by the first call."""
        self._instance = make_runnable(self._model)(device_id)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Call the only method, or ``__call__`` if there are several."""
        name = self._methods[0] if len(self._methods) == 1 else "__call__"
        return RunnerMethod(self, name).run(*args, **kwargs)

    async def async_run(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method without blocking the event loop."""
        return await asyncio.to_thread(self.run, *args, **kwargs)

    def __getattr__(self, name: str) -> RunnerMethod:
        if name not in self.__dict__.get("_methods", ()):
            raise AttributeError(f"the model has no signature '{name}'")
        return RunnerMethod(self, name)


class RunnerMethod:
    """One method of a runner: ``runner.predict.run(image)``."""

    def __init__(self, runner: LocalRunner, name: str) -> None:
        self._runner = runner
        self._name = name

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method."""
        if self._runner._instance is None:
            self._runner.init_local()
        return getattr(self._runner._instance, self._name)(*args, **kwargs)

    async def async_run(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method without blocking the event loop."""
        return await asyncio.to_thread(self.run, *args, **kwargs)
