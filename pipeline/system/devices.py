"""Devices by the names that torch gives them."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import DeviceError, DeviceLostError


def resolve_device(device: str) -> str:
    """Return the torch device for ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        DeviceError: It does not exist here; names those that do.
    """
    if device == "cpu":
        return device
    import torch

    cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if device == "auto":
        return cuda[0] if cuda else "cpu"
    wanted = "cuda:0" if device == "cuda" else device
    if wanted not in cuda:
        there = ", ".join(["cpu", *cuda])
        raise DeviceError(f"device '{device}' does not exist here; there is: {there}")
    return wanted


def device_name(device: str) -> str:
    """Return what a person calls the device, such as ``NVIDIA H100 80GB HBM3``."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    return _cpu_name()


@contextmanager
def told_if_lost(device: str) -> Iterator[None]:
    """Tell a device that failed for good from an input that did.

    After such an error of CUDA every later call fails with it too, until the process ends.

    Raises:
        DeviceLostError: The device failed.
    """
    import torch

    try:
        yield
    except getattr(torch, "AcceleratorError", ()) as exc:  # of torch 2.8
        what = str(exc).split("\n", 1)[0]
        raise DeviceLostError(
            f"{device} has failed ({what}); start again to go on with what is not done"
        ) from exc


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
