"""``runner.address`` with real Ray Serve on this machine; replicas are killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from command_line import ROOT, command, environment
from processes import children
from served import Response, Served, form, image_file, served

FAKE = ("runnable=fake", "model=mask_rcnn", "device=cpu", "decode.isolation=none")
FAULTY = (
    "runnable._target_=faulty_model.FaultyModel",
    "trusted_packages=[pipeline,runners,faulty_model]",
)
HEIGHTS = range(10, 30)
LOST = {"error": "the replica with this request has failed; send it again"}


def replicas_below(parent: int) -> list[int]:
    """Return the processes of replicas that a process has started, or its children have."""
    found, todo = [], [parent]
    while todo:
        todo += (below := sorted(children(todo.pop())))
        for pid in below:
            with suppress(OSError):
                name = Path(f"/proc/{pid}/cmdline").read_bytes()
                found += [pid] if name.startswith(b"ray::ServeReplica") else []
    return found


class OnRay(Served):
    """The command, and how to send it requests."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process, self.port = process, port

    def replicas(self) -> list[int]:
        return replicas_below(self.process.pid)

    def value(self, name: str) -> float:
        lines = self.get("/metrics").body.decode().splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(name + " "))

    def wait_for_replicas(self) -> None:
        end = time.monotonic() + 120
        while self.value("d2run_replicas") < 2:
            assert time.monotonic() < end
            time.sleep(0.2)

    def ask(self, height: int) -> Response:
        return self.post("/predict", image_file(height))


@contextmanager
def on_ray(home: Path, *arguments: str, **variables: str) -> Iterator[OnRay]:
    """Run the command with two replicas while the block runs."""
    env = environment(home) | variables | {"PYTHONPATH": str(ROOT / "tests/support")}
    options = ("runner=serve", "runner.port=0", "runner.address=local", "runner.replicas=2")
    with (home / "stderr").open("w") as stderr:
        process = subprocess.Popen(
            command(*FAKE, *options, *arguments), cwd=home, env=env, stderr=stderr
        )
    try:
        end = time.monotonic() + 200
        while not (text := (home / "stderr").read_text()).endswith("(stop with Ctrl-C)\n"):
            assert process.poll() is None, text
            assert time.monotonic() < end
            time.sleep(0.1)
        yield OnRay(process, int(text.split(":")[2].partition("/")[0]))
    finally:
        process.terminate()
        process.wait()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_on_this_machine(tmp_path: Path) -> None:
    with served(*FAKE) as plain:
        expected = {height: plain.post("/predict", image_file(height)).body for height in HEIGHTS}
        info = plain.get("/info").json
        page = plain.get("/").body
    with (
        on_ray(tmp_path, *FAULTY, FAULTY_LOSE_ON="lost") as running,
        ThreadPoolExecutor(8) as clients,
    ):
        answers = dict(zip(HEIGHTS, clients.map(running.ask, HEIGHTS), strict=True))
        assert {height: answer.body for height, answer in answers.items()} == expected
        found = running.get("/info").json
        assert len(found.pop("devices")) == 2
        assert found == info
        assert running.get("/").body == page
        assert running.post("/predict", b"x").status == 422
        before = running.replicas()
        assert len(before) == 2
        os.kill(before[0], signal.SIGKILL)
        after = [running.ask(height) for height in HEIGHTS]
        assert all(
            each.body == expected[height] if each.status == 200 else each.json == LOST
            for height, each in zip(HEIGHTS, after, strict=True)
        )
        assert after[-1].status == 200
        wait_for_new(running, before)
        statuses = Counter(each.status for each in after)
        text = f'd2run_inputs_total{{outcome="done"}} {len(HEIGHTS) + statuses[200]}.0'
        assert text in running.get("/metrics").body.decode()
        before = running.replicas()
        lost = running.post("/predict", *form(("lost", image_file())))
        assert (lost.status, lost.json["error"][:20]) == (503, "the model has failed")
        wait_for_new(running, before)
        below = children(running.process.pid)
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(120) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in below)
    _, *said, counts = (tmp_path / "stderr").read_text().splitlines()  # and nothing of Ray's
    replaced = "error: a replica is replaced: the device is lost"
    lost = "a replica was lost; it is started again"
    assert replaced in said
    assert {*said} == {replaced, f"error: {lost}", f"resolved: {lost}"}
    assert " requests: " in counts


def wait_for_new(running: OnRay, before: list[int]) -> None:
    end = time.monotonic() + 120
    while len(now := running.replicas()) < 2 or now == before:
        assert time.monotonic() < end
        time.sleep(0.2)
    running.wait_for_replicas()


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_replicas_are_killed_under_load(tmp_path: Path) -> None:
    """1,000 requests, 3 kills: each request gets its own answer, or a 503 that says so."""
    with served(*FAKE) as plain:
        expected = {height: plain.post("/predict", image_file(height)).body for height in HEIGHTS}
    chance = random.Random(18)
    heights = [chance.choice(HEIGHTS) for _ in range(1000)]
    n_clients, kills, killed = 8, 3, 0
    with (
        on_ray(tmp_path, *FAULTY, FAULTY_SLEEP_S="0.1") as running,
        ThreadPoolExecutor(n_clients) as clients,
    ):

        def ask(height: int) -> list[Response]:
            tries = [running.ask(height)]
            while tries[-1].status == 503:  # as a client would
                time.sleep(float(tries[-1].headers["retry-after"]))
                tries.append(running.ask(height))
            return tries

        answers = [clients.submit(ask, height) for height in heights]
        before: list[int] = []
        while killed < kills and not all(each.done() for each in answers):
            at = sum(each.done() for each in answers)
            if at < (killed + 1) * len(heights) // (kills + 2):
                time.sleep(0.05)
                continue
            if before:
                wait_for_new(running, before)
            before = running.replicas()
            os.kill(chance.choice(before), signal.SIGKILL)
            killed += 1
        done = [each.result() for each in answers]
        assert killed == kills
        for height, tries in zip(heights, done, strict=True):
            assert (tries[-1].status, tries[-1].body) == (200, expected[height])
            assert all(
                each.status == 503 and "replica" in each.json["error"] for each in tries[:-1]
            )
        lost = sum(each.json == LOST for tries in done for each in tries[:-1])
        assert 0 < lost < kills * n_clients  # those at the other replica are not affected
        running.wait_for_replicas()
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(120) == 0
    summary = f"{lost} of {len(heights)} requests were lost with {killed} replicas\n"
    (tmp_path / "summary").write_text(summary)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("default")
def test_a_machine_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three machines with a GPU each, which they do not have; two get a replica."""
    env = environment(tmp_path) | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests/support'}"}
    for name, value in (env | {"RAY_USAGE_STATS_ENABLED": "0"}).items():
        monkeypatch.setenv(name, value)
    from ray.cluster_utils import Cluster

    size = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
    config = {"health_check_period_ms": 1000, "health_check_initial_delay_ms": 1000}
    cluster = Cluster(initialize_head=True, head_node_args={**size, "_system_config": config})
    try:
        nodes = [cluster.add_node(num_gpus=1, **size) for _ in range(3)]
        address = (f"runner.address={cluster.address}", "device=cuda")
        with on_ray(tmp_path, *address) as running, ThreadPoolExecutor(4) as clients:
            running.wait_for_replicas()
            before = running.ask(10).body
            answers = [clients.submit(running.ask, 10) for _ in range(50)]
            for node in nodes[:2]:  # one of them has a replica
                cluster.remove_node(node, allow_graceful=False)
                cluster.add_node(num_gpus=1, **size)
            answers += [clients.submit(running.ask, 10) for _ in range(50)]
            for each in answers:
                answer = each.result()
                assert answer.body == before if answer.status == 200 else answer.status == 503
            end = time.monotonic() + 120
            while running.ask(10).body != before:
                assert time.monotonic() < end
                time.sleep(0.2)
            running.wait_for_replicas()
            assert len(replicas_below(os.getpid())) == 2
            running.process.send_signal(signal.SIGKILL)
            running.process.wait()
        end = time.monotonic() + 120
        while replicas_below(os.getpid()):
            assert time.monotonic() < end
            time.sleep(0.5)
    finally:
        cluster.shutdown()
