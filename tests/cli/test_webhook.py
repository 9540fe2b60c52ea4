"""The webhook of a run that is killed, terminated and resumed."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import Run, command, environment, write_picture
from receiver import Receiver

N = 12
FAKE = ("model=mask_rcnn", "runnable=fake", "quiet=true", "sink=[webhook,coco]")


def results(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in ("predictions.jsonl", "coco.json")}


@pytest.fixture
def job(tmp_path: Path) -> list[str]:
    for i in range(N):
        write_picture(tmp_path / "in" / f"{i:02}.png", np.full((24, 32, 3), i, np.uint8))
    return [*FAKE, f"input={tmp_path}/in"]


def delivered(receiver: Receiver) -> set[str]:
    return {post.lines[0]["asset"] for post in receiver.posts if post.status == 200}


ALL = {f"{i:02}.png" for i in range(N)}


def test_a_receiver_that_comes_later(d2run: Run, job: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Receiver() as receiver:
        port = receiver.port
    job = [*job, f"output={out}", f"sink.webhook.url=http://127.0.0.1:{port}/?token=hush-hush"]
    env = environment(tmp_path) | {"HOOK_KEY": "open sesame"}
    late = [*job, "sink.webhook.secret_env=HOOK_KEY"]
    done = d2run(*late, "sink.webhook.drain_s=0.1", env=env)
    assert done.returncode == 0, done.stderr
    before = results(out)
    assert {path.name for path in (out / "webhook").iterdir()} == {f"{n}.jsonl" for n in ALL}
    with Receiver(port) as receiver:
        assert d2run(*late, env=env).returncode == 0  # there is nothing else to do
    assert delivered(receiver) == ALL
    assert len(receiver.posts) == N
    assert not (out / "webhook").exists()
    assert results(out) == before
    for path in out.rglob("*"):
        if path.is_file():
            assert b"hush-hush" not in path.read_bytes(), path
            assert b"open sesame" not in path.read_bytes(), path
    assert "12 inputs are not delivered" in (out / "run.log").read_text()


@pytest.mark.parametrize("ends", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_is_stopped_loses_nothing(
    d2run: Run, job: list[str], tmp_path: Path, ends: signal.Signals
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    with Receiver() as receiver:
        url = f"sink.webhook.url={receiver.url}"
        receiver.answers = [200, 200, 503, "stall"]
        options = ["sink.webhook.drain_s=1000", "sink.webhook.timeout_s=1000"]
        options += ["sink.webhook.backoff_s=0.01", url, f"output={out}"]
        process = subprocess.Popen(
            command(*job, *options), env=environment(tmp_path), stderr=subprocess.PIPE
        )
        deadline = time.monotonic() + 60
        while len(receiver.posts) < 4 and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(ends)
        process.communicate(timeout=60)
        assert process.returncode in (-signal.SIGKILL, 128 + signal.SIGTERM)
        assert len(delivered(receiver)) == 2
        assert d2run(*job, *options).returncode == 0
    assert delivered(receiver) == ALL
    keys = {}
    for post in receiver.posts:  # what is posted twice has the same key
        keys.setdefault(post.lines[0]["asset"], set()).add(post.headers["idempotency-key"])
    assert all(len(each) == 1 for each in keys.values())
    assert not (out / "webhook").exists()
    assert d2run(*job, "sink=[coco]", f"output={whole}").returncode == 0
    assert results(out) == results(whole)
