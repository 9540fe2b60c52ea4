"""A watch on real Ray: on this machine, and on a cluster that goes away and comes back."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from batches import lines, record, write_images
from command_line import command, environment
from ray_cluster import Cluster

JOB = (
    "model=mask_rcnn", "runnable=fake", "device=cpu", "sink=[coco]", "runner=watch",
    "runner.executor=ray", "runner.settle_s=0.2", "runner.poll_s=0.5", "runner.after=move",
    "input=in", "output=out",
)  # fmt: skip


def wait_for(condition: Any, seconds: float = 240) -> None:
    """Ray takes its time on a busy machine."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "never came true"
        time.sleep(0.2)


@contextmanager
def watch(folder: Path, *arguments: str, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "stderr").open("ab") as stderr:
        process = subprocess.Popen(
            command(*JOB, *arguments), env=environment(folder) | more, cwd=folder, stderr=stderr
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def moved(folder: Path, *names: str) -> bool:
    return all((folder / "in/done" / name).exists() for name in names)


@pytest.mark.nightly  # test_workers.py does the same without Ray
@pytest.mark.timeout(600)
def test_on_this_machine(tmp_path: Path) -> None:
    names = [f"{i}.png" for i in range(10)]
    write_images(tmp_path / "in", *names)
    with watch(tmp_path, "runner.workers=2") as process:
        wait_for(lambda: moved(tmp_path, *names))
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert sorted(line["asset"] for line in lines(tmp_path / "out/inputs.jsonl")) == names
    assert record(tmp_path / "out")["device"]["workers"] == 2
    stderr = (tmp_path / "stderr").read_text()
    assert "stopped; 10 results are kept" in stderr
    assert not re.search(r"(?i)raylet|actor|gcs|pid=|warning", stderr)  # nothing of Ray's


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_a_cluster_that_goes_away_and_comes_back(
    start_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    cluster = start_cluster()
    write_images(tmp_path / "in", "1.png", "2.png")
    address = f"runner.address=127.0.0.1:{cluster.port}"
    with watch(tmp_path, address, "runner.wait_s=40", RAY_AUTH_TOKEN=cluster.token) as process:
        wait_for(lambda: moved(tmp_path, "1.png", "2.png"))
        cluster.kill()
        write_images(tmp_path / "in", "3.png")
        stderr = tmp_path / "stderr"
        wait_for(lambda: "error: no worker has answered for 40 s" in stderr.read_text())
        time.sleep(40)  # Ray would end a driver after 60 s
        assert process.poll() is None
        assert (tmp_path / "in/3.png").exists()
        cluster.start()
        wait_for(lambda: moved(tmp_path, "3.png"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert len(lines(tmp_path / "out/inputs.jsonl")) == 3
