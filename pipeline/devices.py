"""Devices by the names that torch gives them."""

from __future__ import annotations

import platform
from pathlib import Path

from pipeline.errors import DeviceError


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


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
