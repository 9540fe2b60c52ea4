"""Real Ray: on this machine, and on a cluster whose parts are killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from batches import derived, lines, record, write_images
from command_line import ROOT, command, environment

SUPPORT = ROOT / "tests" / "support"
JOB = (
    "model=mask_rcnn", "runnable=fake", "runnable._target_=faulty_model.FaultyModel",
    "trusted_packages=[pipeline,runners,faulty_model]", "sink=[coco,overlay]", "quiet=true",
)  # fmt: skip
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def variables(home: Path) -> dict[str, str]:
    return environment(home) | {"PYTHONPATH": f"{ROOT}:{SUPPORT}"}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a job as a child of ``uv run --project``, which Ray would repeat on its workers."""
    (tmp_path / "run").write_text("import subprocess, sys; sys.exit(subprocess.call(sys.argv[2:]))")

    def go(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["uv", "run", "--project=/elsewhere", *command(*JOB, *arguments)],
            executable=sys.executable,
            env=variables(tmp_path) | more,
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )

    return go


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_on_this_machine(run: Run, tmp_path: Path) -> None:
    write_images(tmp_path / "in", *(f"{i}.png" for i in range(40)))
    (tmp_path / "in/7.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    job = ("input=in", "device=cpu")  # relative: workers have the same working directory
    assert run(*job, "output=batch").returncode == 3
    done = run(*job, "output=ray", "runner=ray", "runner.workers=2", "runner.chunk=4")
    expected = f"error: 1 of 40 inputs failed; see {tmp_path}/ray/failures.jsonl"
    assert (done.returncode, done.stderr.splitlines()[-1:]) == (3, [expected])
    assert len(done.stderr.splitlines()) == 2, done.stderr  # and nothing of Ray's
    assert derived(tmp_path / "ray") == derived(tmp_path / "batch")
    assert record(tmp_path / "ray")["device"]["workers"] == 2
    settings = [record(tmp_path / name)["fingerprint"] for name in ("ray", "batch")]
    assert settings[0] == settings[1]


class Machines:
    """Three machines of a cluster, each with a GPU that it does not have."""

    def __init__(self, env: dict[str, str]) -> None:
        self._env = env
        os.environ.update(env)  # the machines' processes inherit it
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        from ray.cluster_utils import Cluster

        config = {
            "health_check_period_ms": 1000,
            "health_check_failure_threshold": 10,  # fewer, and a busy machine looks dead
            "health_check_initial_delay_ms": 1000,
        }
        store = {"object_store_memory": 80 << 20}
        head = {"num_cpus": 1, "include_dashboard": False, "_system_config": config, **store}
        self.cluster: Any = Cluster(initialize_head=True, head_node_args=head)
        self.nodes = [self.add() for _ in range(3)]

    def add(self) -> Any:
        return self.cluster.add_node(
            num_cpus=1, num_gpus=1, object_store_memory=80 << 20, include_dashboard=False
        )

    def kill(self, chance: random.Random) -> None:
        node = self.nodes.pop(chance.randrange(len(self.nodes)))
        self.cluster.remove_node(node, allow_graceful=False)
        self.nodes.append(self.add())

    def close(self) -> None:
        self.cluster.shutdown()


def actors() -> list[int]:
    found = subprocess.run(["pgrep", "-f", "^ray::Worker"], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Callable[..., Machines]]:
    """Start a cluster, in this environment and another."""
    before, started = dict(os.environ), []

    def start(**more: str) -> Machines:
        started.append(Machines(variables(tmp_path) | more))
        return started[-1]

    yield start
    for each in started:
        each.close()
    os.environ.clear()
    os.environ.update(before)


def write_scenes(folder: Path, n: int) -> None:
    for i in range(n):
        write_images(folder, f"{i:04}.png", value=i)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("n", "kills"), [(300, 1), (1000, 3), (3000, 10)])
def test_everything_is_killed(
    run: Run, tmp_path: Path, machines: Callable[..., Machines], n: int, kills: int
) -> None:
    chance = random.Random(18)
    write_scenes(tmp_path / "in", n)
    job = ("input=in", "device=cuda", "decode.isolation=auto")
    assert run(*job, "output=batch", FAULTY_LOG="").returncode == 0
    log = tmp_path / "log"
    cluster = machines(FAULTY_SLEEP_S="0.05", FAULTY_LOG=str(log))
    arguments = (*job, "output=ray", "runner=ray", f"runner.address={cluster.cluster.address}")
    todo = ["actor", "node", "driver"] * kills
    chance.shuffle(todo)
    killed: Counter[str] = Counter()
    predictions = tmp_path / "ray/predictions.jsonl"
    while True:
        with (tmp_path / "stderr").open("a") as stderr:
            driver = subprocess.Popen(
                command(*JOB, *arguments), env=variables(tmp_path), cwd=tmp_path, stderr=stderr
            )
        known = predictions.stat().st_size if predictions.exists() else 0
        while todo and driver.poll() is None:
            now = predictions.stat().st_size if predictions.exists() else 0
            if now <= known:  # something is committed between two kills
                time.sleep(0.1)
                continue
            time.sleep(chance.uniform(0, 2))
            known = now
            what = todo.pop()
            killed[what] += 1
            if what == "driver":
                driver.kill()
            elif what == "node":
                cluster.kill(chance)
            elif pids := actors():
                with suppress(ProcessLookupError):
                    os.kill(chance.choice(pids), signal.SIGKILL)
        if driver.wait() != -signal.SIGKILL:
            break
    stderr_text = (tmp_path / "stderr").read_text()
    assert driver.returncode == 0, stderr_text
    assert not todo, f"the run was over before {todo}"
    assert derived(tmp_path / "ray") == derived(tmp_path / "batch")
    again = len(log.read_text().splitlines()) - n
    assert again <= 64 * 2 * (killed["actor"] + killed["node"] + 3 * killed["driver"])
    summary = f"{dict(killed)}: {again} of {n} inputs were processed again\n"
    (tmp_path / "summary").write_text(summary + stderr_text)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("default")
def test_bad_images_cost_only_themselves(
    run: Run, tmp_path: Path, machines: Callable[..., Machines]
) -> None:
    write_scenes(tmp_path / "in", 200)
    (tmp_path / "in/0007.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    job = ("input=in", "device=cuda")
    assert run(*job, "output=batch").returncode == 3
    cluster = machines(FAULTY_CRASH_ON="0050.png", FAULTY_HANG_ON="0150.png")
    address = f"runner.address={cluster.cluster.address}"
    done = run(*job, "output=ray", "runner=ray", address, "runner.stall_s=5")
    assert done.returncode == 3, done.stderr
    failed = {line["asset"]: line["message"] for line in lines(tmp_path / "ray/failures.jsonl")}
    assert list(failed) == ["0007.png", "0050.png", "0150.png"]
    assert failed["0050.png"] == "its worker died, 3 times in a row"
    assert failed["0150.png"].startswith("its worker made no progress for 5 s")
    ours, theirs = (
        {
            line["asset"]: {**line, "image_id": 0}
            for line in lines(tmp_path / out / "predictions.jsonl")
        }
        for out in ("ray", "batch")
    )
    del theirs["0050.png"], theirs["0150.png"]
    assert ours == theirs
