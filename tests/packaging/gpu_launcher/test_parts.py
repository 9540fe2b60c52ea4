"""What jobs send back, how their output is forwarded, and which jobs count as finished."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from threading import Lock
from typing import Any

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.hydra_gpu_launcher import _child
from hydra_plugins.hydra_gpu_launcher._finished import (
    NAME,
    config_digest,
    forget_finished,
    read_finished,
    write_finished,
)
from hydra_plugins.hydra_gpu_launcher._job import Job
from hydra_plugins.hydra_gpu_launcher._output import Relay

HYDRA = OmegaConf.create({"job": {"name": "app", "env_set": {}}})


class TwoArgumentsError(Exception):
    """It can be pickled, but not be unpickled."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


@pytest.mark.parametrize(
    ("status", "value", "expected", "reason"),
    [
        (JobStatus.COMPLETED, {"ap": 0.5}, {"ap": 0.5}, ""),
        (JobStatus.FAILED, ValueError("bad"), ValueError, "ValueError: bad"),
        (JobStatus.FAILED, KeyError(), KeyError, "KeyError"),
        (JobStatus.FAILED, TwoArgumentsError("a", "b"), RuntimeError, "TwoArgumentsError: a and b"),
        (JobStatus.COMPLETED, Lock(), RuntimeError, "its return value cannot be sent to the "
         "launcher: cannot pickle '_thread.lock' object"),
    ],
)  # fmt: skip
def test_results(status: JobStatus, value: Any, expected: Any, reason: str) -> None:
    data = _child._pickled(JobReturn(status=status, _return_value=value))
    returned, said = pickle.loads(data)
    assert said == reason
    assert returned.status == (JobStatus.FAILED if reason else JobStatus.COMPLETED)
    if reason:
        assert type(returned._return_value) is expected
    else:
        assert returned._return_value == expected


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (b"one\ntwo\n", "[7] one\n[7] two\n"),
        (b"no line break", "[7] no line break\n"),
        (b" 10%\r 50%\r100%\nnext\r\n", "[7] 100%\n[7] next\n"),
        (b"\n", "[7] \n"),
        (b"", ""),
        (b"x" * 200_000 + b"\ny", None),
    ],
)
def test_output(written: bytes, shown: str | None, capfd: pytest.CaptureFixture[str]) -> None:
    relay = Relay()
    reading, writing = os.pipe()
    with open(reading, "rb") as stream:  # noqa: PTH123 - a descriptor
        relay.add(stream, "[7] ", is_error=True)
        for start in range(0, len(written), 30_000):
            os.write(writing, written[start : start + 30_000])
            assert relay.pump(1)
        os.write(writing, b"")
        os.close(writing)
        relay.remove(stream)
    relay.close()
    out, err = capfd.readouterr()
    assert out == ""
    if shown is None:  # a line without end does not fill the memory
        assert err.replace("\n[7] ", "").count("x") == 200_000
        assert err.count("\n") <= 6
    else:
        assert err == shown


def test_output_that_something_else_holds_open(capfd: pytest.CaptureFixture[str]) -> None:
    relay = Relay()
    reading, writing = os.pipe()
    with open(reading, "rb") as stream:  # noqa: PTH123 - a descriptor
        relay.add(stream, "", is_error=False)
        os.write(writing, b"last words")
        relay.remove(stream)
    assert capfd.readouterr().out == "last words\n"
    os.close(writing)


def job(tmp_path: Path, config: Any, value: Any = None) -> Job:
    digest = config_digest(OmegaConf.create(config), HYDRA)
    return Job(0, (), DictConfig({}), tmp_path / "0", tmp_path, digest, value=value)


def test_finished_jobs_are_recorded_with_their_configuration(tmp_path: Path) -> None:
    one = job(tmp_path, {"x": 1, "y": {"z": [1, None]}}, value={"ap": 0.25})
    assert read_finished(one) == (False, None)
    assert write_finished(one) == ""
    assert read_finished(one) == (True, {"ap": 0.25})
    assert [path.name for path in (tmp_path / "0").iterdir()] == [NAME]
    assert read_finished(job(tmp_path, {"x": 2, "y": {"z": [1, None]}})) == (False, None)
    (tmp_path / "0" / NAME).write_text('{"version": 1, "conf')
    assert read_finished(one) == (False, None)
    forget_finished(tmp_path / "0")
    forget_finished(tmp_path / "0")
    assert list((tmp_path / "0").iterdir()) == []


def test_interpolations_count_with_their_values(monkeypatch: pytest.MonkeyPatch) -> None:
    config = OmegaConf.create({"home": "${oc.env:SOME_VARIABLE}"})
    assert config_digest(config, HYDRA) == ""  # it cannot be resolved
    digests = set()
    for value in ("a", "b"):
        monkeypatch.setenv("SOME_VARIABLE", value)
        digests.add(config_digest(config, HYDRA))
    other = OmegaConf.merge(HYDRA, {"job": {"env_set": {"OMP_NUM_THREADS": "1"}}})
    assert isinstance(other, DictConfig)
    digests.add(config_digest(config, other))
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (object(), "its return value of type object is not plain JSON"),
        ((1, 2), "its return value of type tuple is not plain JSON"),
        ({1: 2}, "its return value of type dict is not plain JSON"),
    ],
)
def test_return_values_that_cannot_be_recorded(tmp_path: Path, value: Any, problem: str) -> None:
    one = job(tmp_path, {"x": 1}, value=value)
    assert write_finished(one) == problem
    assert read_finished(one) == (False, None)
    one.digest = ""
    assert write_finished(one) == "its configuration cannot be resolved"
