"""One service for the tests of a file that only ask it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from served import Served, served


@pytest.fixture(scope="module")
def service() -> Iterator[Served]:
    with served("runner.max_body_mb=0.1", "runner.timeout_s=0.5", "runner.max_queue=4") as running:
        yield running
        assert running.service.in_flight == 0
        assert list(running.service.directory.iterdir()) == []
