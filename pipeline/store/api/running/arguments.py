"""The arguments of a call: the images, and the other arguments of the model's method."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.errors import ConfigError


def split_arguments(
    method: Callable[..., Any],
    name: str,
    options: Mapping[str, Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    single: bool,
) -> tuple[list[Any], list[Any], dict[str, Any]]:
    """Return the images, the other positional arguments and the keyword arguments.

    Args:
        method: The method, whose first argument are the images.
        name: The method's name.
        options: The method's signature in ``model.yaml``.
        args: Positional arguments of the call.
        kwargs: Keyword arguments of the call.
        single: Whether the method has one image, so that further images are refused.

    Raises:
        ConfigError: The method does not have such arguments.
    """
    signature = inspect.signature(method)
    args, kwargs = list(args), dict(kwargs)
    first = next(iter(signature.parameters), None)
    if first in kwargs and not args:
        value = kwargs.pop(first)
        is_list = isinstance(value, (list, tuple)) and not (single or options["batchable"])
        args = list(value) if is_list else [value]
    images, others = _split(args, name, options, single)
    try:
        signature.bind(images, *others, **kwargs)
    except TypeError as exc:
        raise ConfigError(
            f"{name}: {exc}; its arguments are {', '.join(signature.parameters)}"
        ) from None
    return images, others, kwargs


def _split(
    args: Sequence[Any], name: str, options: Mapping[str, Any], single: bool
) -> tuple[list[Any], list[Any]]:
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
    if single:
        return [first], list(args[1:])
    return (
        [value for value in args if _is_image(value)],
        [value for value in args if not _is_image(value)],
    )


def _is_image(value: Any) -> bool:
    return isinstance(value, Mapping) or getattr(value, "ndim", 0) == 3


def _unstack(batch: Any, batch_dim: int | Sequence[int]) -> list[Any]:
    if isinstance(batch, (list, tuple)):
        return list(batch)
    dim = batch_dim if isinstance(batch_dim, int) else batch_dim[0]
    if isinstance(batch, np.ndarray):
        return list(np.moveaxis(batch, dim, 0))
    return list(batch.movedim(dim, 0))
