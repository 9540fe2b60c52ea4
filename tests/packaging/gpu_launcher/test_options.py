"""The options of hydra/launcher=gpu: what is accepted, and the sentence for what is not."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import OmegaConf

from hydra_plugins.hydra_gpu_launcher._errors import LauncherError
from hydra_plugins.hydra_gpu_launcher._options import Options, read_options
from hydra_plugins.hydra_gpu_launcher.gpu_launcher import GpuLauncherConf


def read(**given: Any) -> Options:
    config = OmegaConf.structured(GpuLauncherConf(**given))
    return read_options(**{key: value for key, value in config.items() if key != "_target_"})


def test_defaults() -> None:
    assert read() == Options(None, 1, 0, 0.0, 0, False, None, False, 30.0)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([0, 1], (0, 1)),
        (2, (2,)),
        ("3", (3,)),
        ("GPU-abc", ("GPU-abc",)),
        (["MIG-x", 1], ("MIG-x", 1)),
        ("auto", None),
    ],
)
def test_devices(given: Any, expected: Any) -> None:
    assert read(devices=given).devices == expected


NUMBER = "a whole number of at least"
DEVICES = "auto, or a list of GPU numbers and UUIDs such as [0,1]"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"devices": []}, f"devices=[]: expected {DEVICES}"),
        ({"devices": "cuda:0"}, f"devices=cuda:0: expected {DEVICES}"),
        ({"devices": [0, -1]}, f"devices=[0,-1]: expected {DEVICES}"),
        ({"devices": True}, f"devices=true: expected {DEVICES}"),
        ({"devices": None}, f"devices=null: expected {DEVICES}"),
        ({"devices": {"a": 1}}, f"devices={{'a': 1}}: expected {DEVICES}"),
        ({"devices": [1, "1"]}, "devices=[1,1]: 1 is repeated; to run several jobs on a GPU, set "
         "hydra.launcher.jobs_per_device"),
        ({"jobs_per_device": 0}, f"jobs_per_device=0: expected {NUMBER} 1"),
        ({"jobs_per_device": "two"}, f"jobs_per_device=two: expected {NUMBER} 1"),
        ({"min_free_mb": -1}, f"min_free_mb=-1: expected {NUMBER} 0"),
        ({"min_free_mb": 1.5}, f"min_free_mb=1.5: expected {NUMBER} 0"),
        ({"retries": True}, f"retries=true: expected {NUMBER} 0"),
        ({"slots": 0}, f"slots=0: expected {NUMBER} 1"),
        ({"start_interval_s": -0.1}, "start_interval_s=-0.1: expected a number of seconds of at "
         "least 0"),
        ({"stop_timeout_s": float("nan")}, "stop_timeout_s=nan: expected a number of seconds of at "
         "least 0"),
        ({"on_failure": "halt"}, "on_failure=halt: expected continue or stop"),
        ({"skip_finished": "yes"}, "skip_finished=yes: expected true or false"),
        ({"slots": 2, "devices": [0]}, "slots=2 runs jobs without a GPU; remove it or "
         "hydra.launcher.devices"),
        ({"slots": 2, "jobs_per_device": 2}, "slots=2 runs jobs without a GPU; remove it or "
         "hydra.launcher.jobs_per_device"),
        ({"slots": 2, "min_free_mb": 9}, "slots=2 runs jobs without a GPU; remove it or "
         "hydra.launcher.min_free_mb"),
    ],
)  # fmt: skip
def test_wrong_options(given: dict[str, Any], message: str) -> None:
    with pytest.raises(LauncherError) as error:
        read(**given)
    assert str(error.value) == f"hydra.launcher.{message}"
