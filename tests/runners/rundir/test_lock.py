"""What happens before the slow imports: the lock, and Ctrl-C."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import run
from runners.rundir.lock import forget_early, hold_early


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    forget_early()


def test_ctrl_c_at_once_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def interrupted(arguments: list[str]) -> None:
        hold_early([f"output={tmp_path}/new/out"])
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "hold_early", interrupted)
    assert run.main() == 130
    assert capsys.readouterr().err == "error: interrupted; nothing was started\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("runner", ["plan", "repair"])
def test_a_folder_that_only_hydra_made_is_removed(tmp_path: Path, runner: str) -> None:
    output = tmp_path / "a" / "b"
    assert hold_early([f"runner={runner}", f"output={output}"]) is None
    output.mkdir(parents=True)
    forget_early()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    hold_early([f"runner={runner}", f"output={tmp_path}/mine"])
    forget_early()
    assert (tmp_path / "mine").is_dir()


def test_a_users_own_folder_stays_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "mine.jpg").touch()
    hold_early([f"output={tmp_path}"])
    forget_early()
    assert [path.name for path in tmp_path.iterdir()] == ["mine.jpg"]


@pytest.mark.parametrize(
    ("more", "status"), [((), 11), (("runner.on_lock=skip",), 0), (("output='{}'",), None)]
)
def test_a_second_start_leaves_at_once(
    tmp_path: Path, more: tuple[str, ...], status: int | None
) -> None:
    lock = os.open(tmp_path / ".lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert hold_early([f"output={tmp_path}", *more]) == status
    os.close(lock)
    assert hold_early([f"output={tmp_path}"]) is None


@pytest.mark.parametrize("output", ["~nobody-of-this-name/x", "x" * 300, " "])
def test_an_output_that_cannot_be_is_told_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for runner in ("batch", "plan"):
        assert hold_early([f"runner={runner}", f"output={output}"]) is None
