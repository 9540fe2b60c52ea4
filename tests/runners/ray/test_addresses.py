"""Clusters that a user has started: by ``ray://``, with a token, with packages that are sent."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from batches import derived, write_images
from command_line import command, environment
from ray_cluster import Cluster, free_port

JOB = ("model=mask_rcnn", "runnable=fake", "device=cpu", "sink=[coco]", "quiet=true", "input=in")
MODEL = """
from pipeline.runnables.fake import FakeRunnable
class Model(FakeRunnable):
    pass
"""


def run(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*JOB, *arguments),
        env=environment(folder) | more,
        capture_output=True,
        text=True,
        cwd=folder,
    )


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_both_kinds_of_addresses(start_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    pytest.importorskip("grpc")
    write_images(tmp_path / "in", *(f"{i}.png" for i in range(30)))
    assert run(tmp_path, "output=batch").returncode == 0
    client = free_port()
    cluster = start_cluster(f"--ray-client-server-port={client}")
    addresses = (f"127.0.0.1:{cluster.port}", f"ray://127.0.0.1:{client}")
    for i, address in enumerate(addresses):
        given = ("runner=ray", f"runner.address={address}", f"output={i}")
        done = run(tmp_path, *given, RAY_AUTH_TOKEN=cluster.token)
        assert (done.returncode, done.stderr) == (0, "")
        assert derived(tmp_path / str(i)) == derived(tmp_path / "batch")
    without = run(tmp_path, "runner=ray", f"runner.address={addresses[0]}", "output=without")
    assert without.returncode == 2
    expected = f"error: runner.address={addresses[0]}: the cluster wants its token; set RAY_AUTH_T"
    (line,) = without.stderr.splitlines()
    assert line.startswith(expected)


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_packages_that_only_the_driver_has(
    start_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    write_images(tmp_path / "in", "a.png", "b.png")
    package = tmp_path / "elsewhere/plantsim"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(MODEL)
    cluster = start_cluster()
    more = {"RAY_AUTH_TOKEN": cluster.token, "PYTHONPATH": str(package.parent)}
    given = [
        "runner=ray", f"runner.address=127.0.0.1:{cluster.port}", "output=out",
        "runnable._target_=plantsim.Model", "trusted_packages=[pipeline,runners,plantsim]",
    ]  # fmt: skip
    without = run(tmp_path, *given, **more)
    (line,) = without.stderr.splitlines()
    assert without.returncode == 2
    assert "plantsim" in line
    done = run(tmp_path, *given, "runner.send_packages=true", **more)
    assert (done.returncode, done.stderr) == (0, "")
