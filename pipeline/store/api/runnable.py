"""A stored model as BentoML's users call it: a class with one method a signature."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.store.api.predictor import load_model, stored_cfg
from pipeline.store.disk.entry import StoredModel
from pipeline.store.disk.local import ModelStore
from pipeline.system.devices import resolve_device

_FORWARDS = ("__call__", "forward")  # what gives one output a picture


class StoredRunnable:
    """Loads a stored model onto a device and calls its methods in inference mode.

    A picture is a NumPy array ``(H, W, 3)``, uint8, BGR, or a tensor ``(3, H, W)``. What was saved
    as a predictor resizes it as the config says, and takes a tensor for the same BGR picture. What
    was saved as a module takes it as it is, as Detectron2's modules do: an array is only brought
    into the colour order of ``INPUT.FORMAT``, a tensor is in it already. A mapping with the keys
    of Detectron2's inputs goes through. Results are in the pixels of the picture that was given.

    Args:
        device_id: ``auto`` (cuda:0 if there is one, else cpu), ``cpu``, ``cuda``, ``cuda:N``.
    """

    entry: StoredModel

    def __init__(self, device_id: str = "auto") -> None:
        self.device_id = resolve_device(device_id)
        self.model: Any = load_model(self.entry, self.device_id, trust=self.entry.trust)
        self._is_predictor = self.entry.info["kind"] != "module"
        self._module: Any = self.model.model if self._is_predictor else self.model
        self._format = stored_cfg(self.entry).INPUT.FORMAT

    def _run(self, name: str, options: Mapping[str, Any], args: Any, kwargs: Any) -> Any:
        import torch

        single = self._is_predictor and not options["batchable"]
        pictures, others = _split(args, name, options, single)
        inputs = [self._input(picture) for picture in pictures]
        moved = [self._moved(value) for value in others]
        named = {key: self._moved(value) for key, value in kwargs.items()}
        method = self._module if name == "__call__" else getattr(self._module, name)
        with torch.inference_mode():
            if name not in _FORWARDS:
                return method(inputs, *moved, **named)
            outputs: list[Any] = [None] * len(inputs)
            for positions in self._sharing(inputs):
                found = method([inputs[i] for i in positions], *moved, **named)
                for i, output in zip(positions, found, strict=True):
                    outputs[i] = output
        return outputs[0] if single else outputs

    def _sharing(self, inputs: list[dict[str, Any]]) -> list[list[int]]:
        """Tell which pictures share a forward: none on the CPU, else those of equal size.

        So padding never changes a result, and on the CPU a batch gives the same as one by one.
        """
        groups: dict[Any, list[int]] = {}
        for i, item in enumerate(inputs):
            shape = tuple(item["image"].shape)
            groups.setdefault(i if self.device_id == "cpu" else shape, []).append(i)
        return list(groups.values())

    def _input(self, picture: Any) -> dict[str, Any]:
        import torch

        if isinstance(picture, Mapping):
            return {key: self._moved(value) for key, value in picture.items()}
        if not self._is_predictor and isinstance(picture, torch.Tensor):
            height, width = picture.shape[-2:]
            return {"image": picture.to(self.device_id), "height": height, "width": width}
        image = _upright(picture)
        height, width = image.shape[:2]
        if self._format == "RGB":
            image = image[:, :, ::-1]
        if self._is_predictor:
            image = self.model.aug.get_transform(image).apply_image(image)
        tensor = torch.as_tensor(image.astype("float32").transpose(2, 0, 1)).to(self.device_id)
        return {"image": tensor, "height": height, "width": width}

    def _moved(self, value: Any) -> Any:
        import torch

        if isinstance(value, np.ndarray):
            value = torch.as_tensor(value)
        return value.to(self.device_id) if isinstance(value, torch.Tensor) else value


def get_runnable(model: StoredModel | str, *, store: ModelStore | None = None) -> type:
    """Return a class with one method for each signature of a stored model.

    Its instances load the model; see ``StoredRunnable`` for what the methods take. As in BentoML, a
    predictor gives one result, a module a list with one for each picture. Where the signature says
    ``batchable``, the methods take a list of pictures, or an array or tensor of four dimensions
    whose ``batch_dim`` counts the pictures, and give a list.

    Args:
        model: A tag, or what ``get`` returned.
        store: By default the one in ``$D2RUN_HOME``.
    """
    entry = model if isinstance(model, StoredModel) else (store or ModelStore()).get(model)
    methods = {name: _method(name, options) for name, options in entry.info["signatures"].items()}
    return type("Detectron2Runnable", (StoredRunnable,), {"entry": entry, **methods})


def _method(name: str, options: Mapping[str, Any]) -> Callable[..., Any]:
    def call(self: StoredRunnable, *args: Any, **kwargs: Any) -> Any:
        return self._run(name, options, args, kwargs)

    call.__name__ = name
    call.__doc__ = f"Call the model's ``{name}``."
    return call


def _split(
    args: Sequence[Any], name: str, options: Mapping[str, Any], single: bool
) -> tuple[list[Any], list[Any]]:
    """Return the pictures and the other arguments."""
    if not args:
        raise ConfigError(f"{name} takes a picture: an array (H, W, 3) BGR or a tensor (3, H, W)")
    first = args[0]
    is_batch = isinstance(first, (list, tuple)) or getattr(first, "ndim", 0) == 4
    if options["batchable"]:
        if not is_batch:
            raise ConfigError(
                f"{name} is batchable: give a list of pictures, or an array of four dimensions"
            )
        return _unstacked(first, options.get("batch_dim", 0)), list(args[1:])
    if is_batch:
        raise ConfigError(
            f"{name} takes one picture at a time; save the model with "
            f"signatures={{'{name}': {{'batchable': True}}}} to give it several"
        )
    pictures = [first] if single else [value for value in args if _is_picture(value)]
    return pictures, [value for value in args if not any(value is p for p in pictures)]


def _is_picture(value: Any) -> bool:
    return isinstance(value, Mapping) or getattr(value, "ndim", 0) == 3


def _unstacked(batch: Any, batch_dim: int | Sequence[int]) -> list[Any]:
    if isinstance(batch, (list, tuple)):
        return list(batch)
    dim = batch_dim if isinstance(batch_dim, int) else batch_dim[0]
    if isinstance(batch, np.ndarray):
        return list(np.moveaxis(batch, dim, 0))
    return list(batch.movedim(dim, 0))


def _upright(picture: Any) -> NDArray[Any]:
    """Return a picture as an array ``(H, W, 3)``."""
    is_tensor = hasattr(picture, "detach")
    image = picture.detach().cpu().numpy() if is_tensor else np.asarray(picture)
    if image.ndim != 3 or 3 not in (image.shape[0], image.shape[2]):
        raise ConfigError(
            f"a picture must be an array (H, W, 3) or a tensor (3, H, W); got {image.shape}"
        )
    if image.shape[2] != 3 or (is_tensor and image.shape[0] == 3):
        image = image.transpose(1, 2, 0)
    whole = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    # Pillow resizes uint8; a float tensor of whole numbers is the same picture
    return whole if np.array_equal(whole, image) else image


class LocalRunner:
    """What BentoML's ``to_runner()`` gives, within this process.

    Args:
        entry: The model.
        name: As in BentoML; for people.
    """

    def __init__(self, entry: StoredModel, name: str) -> None:
        self.name = name
        self.entry = entry
        self._methods = list(entry.info["signatures"])
        self._instance: Any = None

    def init_local(self, device_id: str = "auto") -> None:
        """Load the model; otherwise the first call does."""
        self._instance = get_runnable(self.entry)(device_id)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Call the only method, or ``__call__``."""
        name = self._methods[0] if len(self._methods) == 1 else "__call__"
        return RunnerMethod(self, name).run(*args, **kwargs)

    async def async_run(self, *args: Any, **kwargs: Any) -> Any:
        """Call it beside the event loop."""
        return await asyncio.to_thread(self.run, *args, **kwargs)

    def __getattr__(self, name: str) -> RunnerMethod:
        if name not in self.__dict__.get("_methods", ()):
            raise AttributeError(f"'{name}' is none of the model's signatures")
        return RunnerMethod(self, name)


class RunnerMethod:
    """One method of a runner: ``runner.predict.run(image)``."""

    def __init__(self, runner: LocalRunner, name: str) -> None:
        self._runner = runner
        self._name = name

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Call it."""
        if self._runner._instance is None:
            self._runner.init_local()
        return getattr(self._runner._instance, self._name)(*args, **kwargs)

    async def async_run(self, *args: Any, **kwargs: Any) -> Any:
        """Call it beside the event loop."""
        return await asyncio.to_thread(self.run, *args, **kwargs)
