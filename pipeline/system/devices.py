"""Devices by torch's names: which exist, what they are called, and whether they failed."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import DeviceError, DeviceLostError


def resolve_device(device: str) -> str:
    """Return the torch device for ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        DeviceError: The device does not exist; lists those that do.
    """
    if device == "cpu":
        return device
    import torch

    cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if device == "auto":
        return cuda[0] if cuda else "cpu"
    name = "cuda:0" if device == "cuda" else device
    if name not in cuda:
        available = ", ".join(["cpu", *cuda])
        raise DeviceError(f"device '{device}' does not exist. Available: {available}")
    return name


def device_name(device: str) -> str:
    """Return the name of the hardware, such as ``NVIDIA H100 80GB HBM3``."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    return _cpu_name()


@contextmanager
def translate_device_errors(device: str) -> Iterator[None]:
    """Translate errors after which the device cannot be used anymore.

    After such a CUDA error, every later call in the same process fails too.

    Raises:
        DeviceLostError: The device failed permanently.
    """
    import torch

    try:
        yield
    except getattr(torch, "AcceleratorError", ()) as exc:  # since torch 2.8
        what = str(exc).split("\n", 1)[0]
        raise DeviceLostError(
            f"{device} failed and cannot be used anymore ({what}). Run the same command again to "
            "resume."
        ) from exc


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
