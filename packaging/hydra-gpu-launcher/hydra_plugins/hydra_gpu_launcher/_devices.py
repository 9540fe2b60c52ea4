"""Finds GPUs with ``nvidia-smi``, and makes the slots that jobs run on."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hydra_plugins.hydra_gpu_launcher._errors import LauncherError
from hydra_plugins.hydra_gpu_launcher._options import Options

VARIABLE = "CUDA_VISIBLE_DEVICES"
NAME_VARIABLE = "HYDRA_GPU_LAUNCHER_DEVICE"  # tells a job where it runs, such as "GPU 1"
_TIMEOUT_S = 60  # a driver without the persistence daemon takes seconds to answer
_LOOK_TIMEOUT_S = 10  # while jobs run: neither their output nor Ctrl-C is handled meanwhile
_MAX_CHARACTERS = 200  # that are shown of its output
_HINT = "on a machine without NVIDIA GPUs, set hydra.launcher.slots=N to run N jobs at a time"


@dataclass(frozen=True)
class Gpu:
    """A GPU as ``nvidia-smi`` lists it.

    Attributes:
        number: Its number there.
        uuid: Its UUID, ``GPU-...``.
        total_mb: Its memory in MiB; ``None`` if unknown.
        free_mb: The free part of it; ``None`` if unknown.
    """

    number: int
    uuid: str
    total_mb: int | None
    free_mb: int | None


@dataclass(frozen=True)
class Slot:
    """A place for one job at a time.

    Attributes:
        number: Number of the slot, from 0.
        device: How the device is called in messages.
        visible: The value of ``CUDA_VISIBLE_DEVICES`` of its jobs: a UUID, or empty without a GPU.
    """

    number: int
    device: str
    visible: str


def find_slots(options: Options, environment: Mapping[str, str] = os.environ) -> list[Slot]:
    """Return the slots of a sweep. Those of different GPUs alternate.

    Args:
        options: The options.
        environment: Where ``CUDA_VISIBLE_DEVICES`` limits the GPUs of this process.

    Raises:
        LauncherError: There is no GPU, one that was named does not exist, or one has too little
            memory.
    """
    if options.slots is not None:
        return [Slot(i, f"slot {i}", "") for i in range(options.slots)]
    gpus = list_gpus()
    limit = environment.get(VARIABLE)
    visible = None if limit is None else _visible(limit, gpus)
    if options.devices is None:
        chosen = [gpu.uuid for gpu in gpus] if visible is None else visible
    else:
        chosen = [_resolve(each, visible, gpus) for each in options.devices]
    if not chosen:
        raise LauncherError(f"hydra.launcher.devices=auto: no GPU is visible; {_HINT}")
    if len(set(chosen)) < len(chosen):
        raise LauncherError("hydra.launcher.devices names the same GPU twice")
    by_uuid = {gpu.uuid: gpu for gpu in gpus}
    if options.min_free_mb:
        for uuid in chosen:
            _check_memory(uuid, by_uuid.get(uuid), options.min_free_mb)
    names = {uuid: f"GPU {by_uuid[uuid].number}" if uuid in by_uuid else uuid for uuid in chosen}
    slots = chosen * options.jobs_per_device
    return [Slot(i, names[uuid], uuid) for i, uuid in enumerate(slots)]


def list_gpus(timeout_s: float = _TIMEOUT_S) -> list[Gpu]:
    """Return the GPUs of this machine.

    Args:
        timeout_s: How long ``nvidia-smi`` may take.

    Raises:
        LauncherError: ``nvidia-smi`` is missing, fails, or prints something else.
    """
    query = "--query-gpu=index,uuid,memory.total,memory.free"
    text = _nvidia_smi(query, "--format=csv,noheader,nounits", timeout_s=timeout_s)
    gpus = []
    for line in filter(str.strip, text.splitlines()):
        cells = [cell.strip() for cell in line.split(",")]
        is_gpu = len(cells) == 4 and cells[0].isdecimal() and cells[1].startswith("GPU-")
        if not is_gpu:  # such as "No devices were found"
            raise LauncherError(f"nvidia-smi lists no GPUs but says: {_shown(line)}; {_HINT}")
        total, free = (int(cell) if cell.isdecimal() else None for cell in cells[2:])
        gpus.append(Gpu(int(cells[0]), cells[1], total, free))
    return gpus


def free_memory() -> dict[str, int]:
    """Return the free memory of each GPU in MiB, by UUID.

    Raises:
        LauncherError: ``nvidia-smi`` is missing or fails.
    """
    gpus = list_gpus(_LOOK_TIMEOUT_S)
    return {gpu.uuid: gpu.free_mb for gpu in gpus if gpu.free_mb is not None}


def _nvidia_smi(*arguments: str, timeout_s: float = _TIMEOUT_S) -> str:
    try:
        done = subprocess.run(
            ["nvidia-smi", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError as exc:
        raise LauncherError(f"nvidia-smi, which lists GPUs, is not on PATH; {_HINT}") from exc
    except OSError as exc:
        raise LauncherError(f"nvidia-smi cannot be run: {exc.strerror}; {_HINT}") from exc
    except subprocess.TimeoutExpired as exc:
        raise LauncherError(f"nvidia-smi did not answer within {timeout_s:g} s") from exc
    if done.returncode:
        said = _shown(done.stderr or done.stdout)
        raise LauncherError(f"nvidia-smi exited with status {done.returncode}: {said}; {_HINT}")
    return done.stdout


def _shown(text: str) -> str:
    """Return a text as one short line without control characters."""
    line = "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
    return line if len(line) <= _MAX_CHARACTERS else f"{line[:_MAX_CHARACTERS]}..."


def _visible(value: str, gpus: Sequence[Gpu]) -> list[str]:
    """Return the UUIDs of the GPUs that CUDA would show to this process, in its order."""
    visible: list[str] = []
    for item in filter(None, (item.strip() for item in value.split(","))):
        try:
            visible.append(_resolve(int(item) if item.isdecimal() else item, None, gpus))
        except LauncherError:
            break  # CUDA ignores an invalid item and those behind it, such as in "-1"
    return visible


def _resolve(device: int | str, visible: Sequence[str] | None, gpus: Sequence[Gpu]) -> str:
    """Return the UUID of a device that the user or the environment names.

    Args:
        device: A number, or a UUID that may be shortened.
        visible: The devices that numbers count; ``None`` for numbers as ``nvidia-smi`` shows them.
        gpus: All GPUs.
    """
    if isinstance(device, int):
        all_gpus = {gpu.number: gpu.uuid for gpu in gpus}
        numbered = all_gpus if visible is None else dict(enumerate(visible))
        if device in numbered:
            return numbered[device]
        available = ", ".join(map(str, numbered)) or "none"
        raise LauncherError(f"hydra.launcher.devices: no GPU {device}; there are: {available}")
    if device.startswith("MIG-"):
        known: list[str] = re.findall(r"UUID: (MIG-[^)\s]+)", _nvidia_smi("-L"))
    else:
        known = [gpu.uuid for gpu in gpus]
    found = [uuid for uuid in known if uuid.startswith(device)]
    if len(found) != 1:
        what = "several devices start with" if found else "no device"
        available = ", ".join(known) or "none"
        raise LauncherError(f"hydra.launcher.devices: {what} {device}; there are: {available}")
    if visible is not None and found[0] not in visible:
        raise LauncherError(f"hydra.launcher.devices: {VARIABLE} hides {device}")
    return found[0]


def _check_memory(uuid: str, gpu: Gpu | None, min_free_mb: int) -> None:
    """Refuse a GPU whose memory is unknown, or too small even when it is free."""
    option = f"hydra.launcher.min_free_mb={min_free_mb}"
    if gpu is None or gpu.total_mb is None or gpu.free_mb is None:
        raise LauncherError(f"{option}: nvidia-smi does not report the memory of {uuid}; remove it")
    if gpu.total_mb < min_free_mb:
        raise LauncherError(f"{option}: GPU {gpu.number} has only {gpu.total_mb} MiB in total")
