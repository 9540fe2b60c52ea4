"""What all tests share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
from command_line import environment
from forking import Forks

# Each worker of pytest-xdist has a core: with more threads, they would wait for one another.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """A process that has imported what a run with the fake runnable imports, and forks."""
    forks = Forks(environment(tmp_path_factory.mktemp("forks")))
    yield forks
    forks.close()


@pytest.fixture(autouse=True)
def no_hydra_config_is_left() -> Iterator[None]:
    """Forget the job of a test that ran the command in this process: others build jobs without."""
    yield
    if hydra := sys.modules.get("hydra.core.hydra_config"):
        hydra.HydraConfig.instance().cfg = None
