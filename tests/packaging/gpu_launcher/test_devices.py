"""GPUs are found with nvidia-smi, and only those that are visible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from nvidia_smi import rows, write_nvidia_smi

from hydra_plugins.hydra_gpu_launcher import _devices
from hydra_plugins.hydra_gpu_launcher._devices import find_slots, free_memory
from hydra_plugins.hydra_gpu_launcher._errors import LauncherError
from hydra_plugins.hydra_gpu_launcher._options import Options, read_options
from hydra_plugins.hydra_gpu_launcher.gpu_launcher import GpuLauncherConf

HINT = "on a machine without NVIDIA GPUs, set hydra.launcher.slots=N to run N jobs at a time"
A, B, C = (f"GPU-{i:08d}-aa" for i in range(3))


def options(**given: Any) -> Options:
    values = {**vars(GpuLauncherConf()), **given}
    del values["_target_"]
    return read_options(**values)


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = write_nvidia_smi(tmp_path / "bin", rows(3))
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


@pytest.mark.parametrize(
    ("given", "environment", "visible"),
    [
        ({}, None, [A, B, C]),
        ({"devices": [2, 0]}, None, [C, A]),
        ({"devices": ["GPU-00000001"]}, None, [B]),
        ({"jobs_per_device": 2, "devices": [0, 1]}, None, [A, B, A, B]),
        ({}, "2,1", [C, B]),
        ({}, f"{B},GPU-00000000", [B, A]),
        ({"devices": [1]}, "2,1", [B]),
        ({}, "1,-1,0", [B]),
        ({"min_free_mb": 16000}, None, [A, B, C]),
        ({"slots": 2}, None, ["", ""]),
    ],
)
def test_slots(
    nvidia_smi: Path, given: dict[str, Any], environment: str | None, visible: list[str]
) -> None:
    variables = {} if environment is None else {"CUDA_VISIBLE_DEVICES": environment}
    slots = find_slots(options(**given), variables)
    assert [slot.visible for slot in slots] == visible
    assert [slot.number for slot in slots] == list(range(len(visible)))
    names = {A: "GPU 0", B: "GPU 1", C: "GPU 2"}
    assert [slot.device for slot in slots] == [
        names.get(each, f"slot {i}") for i, each in enumerate(visible)
    ]


@pytest.mark.parametrize(
    ("given", "environment", "message"),
    [
        ({"devices": [3]}, None, "hydra.launcher.devices: no GPU 3; there are: 0, 1, 2"),
        ({"devices": [1]}, "2", "hydra.launcher.devices: no GPU 1; there are: 0"),
        ({"devices": [0]}, "", "hydra.launcher.devices: no GPU 0; there are: none"),
        ({"devices": ["GPU-f"]}, None,
         f"hydra.launcher.devices: no device GPU-f; there are: {A}, {B}, {C}"),
        ({"devices": ["GPU-0"]}, None, "hydra.launcher.devices: several devices start with GPU-0; "
         f"there are: {A}, {B}, {C}"),
        ({"devices": [A]}, "1", f"hydra.launcher.devices: CUDA_VISIBLE_DEVICES hides {A}"),
        ({"devices": [0, A]}, None, "hydra.launcher.devices names the same GPU twice"),
        ({}, "", f"hydra.launcher.devices=auto: no GPU is visible; {HINT}"),
        ({"min_free_mb": 16001}, None,
         "hydra.launcher.min_free_mb=16001: GPU 0 has only 16000 MiB in total"),
    ],
)  # fmt: skip
def test_gpus_that_do_not_exist(
    nvidia_smi: Path, given: dict[str, Any], environment: str | None, message: str
) -> None:
    variables = {} if environment is None else {"CUDA_VISIBLE_DEVICES": environment}
    with pytest.raises(LauncherError) as error:
        find_slots(options(**given), variables)
    assert str(error.value) == message


def test_mig_devices(nvidia_smi: Path) -> None:
    listed = f"GPU 0: H100 (UUID: {A})\n  MIG 3g.40gb Device 0: (UUID: MIG-12-34)\n"
    write_nvidia_smi(nvidia_smi, rows(3), listed=listed)
    slots = find_slots(options(devices=["MIG-12-34"]), {})
    assert [(slot.device, slot.visible) for slot in slots] == [("MIG-12-34", "MIG-12-34")]
    assert find_slots(options(), {"CUDA_VISIBLE_DEVICES": "MIG-12-34"}) == slots
    with pytest.raises(LauncherError, match="no device MIG-9; there are: MIG-12-34"):
        find_slots(options(devices=["MIG-9"]), {})
    with pytest.raises(LauncherError, match="does not report the memory of MIG-12-34; remove it"):
        find_slots(options(devices=["MIG-12-34"], min_free_mb=1), {})


def test_free_memory(nvidia_smi: Path) -> None:
    write_nvidia_smi(nvidia_smi, f"0, {A}, 16000, 100\n1, {B}, [N/A], [N/A]\n")
    assert free_memory() == {A: 100}
    assert len(find_slots(options(), {})) == 2
    with pytest.raises(LauncherError, match=f"does not report the memory of {B}"):
        find_slots(options(min_free_mb=1), {})


def test_without_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LauncherError) as error:
        find_slots(options(), {})
    assert str(error.value) == f"nvidia-smi, which lists GPUs, is not on PATH; {HINT}"
    (tmp_path / "nvidia-smi").touch()  # not executable
    with pytest.raises(LauncherError, match="nvidia-smi cannot be run: Permission denied"):
        find_slots(options(), {})
    assert len(find_slots(options(slots=4), {})) == 4


def test_an_nvidia_smi_that_fails(nvidia_smi: Path) -> None:
    write_nvidia_smi(nvidia_smi, "Couldn't reach\n the driver\n", status=9)
    with pytest.raises(LauncherError) as error:
        find_slots(options(), {})
    said = "nvidia-smi exited with status 9: Couldn't reach the driver"
    assert str(error.value) == f"{said}; {HINT}"
    for text, shown in {
        "No devices were found\n": "No devices were found",
        "0, \x1b[31m, 1, 1": "0, ?[31m, 1, 1",
        "x" * 999: "x" * 200 + "...",
    }.items():
        write_nvidia_smi(nvidia_smi, text)
        with pytest.raises(LauncherError) as error:
            find_slots(options(), {})
        assert str(error.value) == f"nvidia-smi lists no GPUs but says: {shown}; {HINT}"


def test_an_nvidia_smi_that_hangs(nvidia_smi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (nvidia_smi / "nvidia-smi").write_text("#!/bin/sh\nexec sleep 600\n")
    monkeypatch.setattr(_devices, "_LOOK_TIMEOUT_S", 0.1)
    with pytest.raises(LauncherError, match=r"^nvidia-smi did not answer within 0.1 s$"):
        free_memory()
