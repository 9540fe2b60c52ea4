from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ray_cluster import Cluster


@pytest.fixture
def start_cluster() -> Iterator[Callable[..., Cluster]]:
    """Start a cluster, with more arguments of ``ray start``."""
    started: list[tuple[Cluster, Path]] = []

    def start(*arguments: str) -> Cluster:
        folder = Path(tempfile.mkdtemp(prefix="d2run-test-", dir="/tmp"))  # sockets: short paths
        cluster = Cluster(folder, *arguments)
        started.append((cluster, folder))
        cluster.start()
        return cluster

    yield start
    for cluster, folder in started:
        cluster.kill()
        shutil.rmtree(folder, ignore_errors=True)
