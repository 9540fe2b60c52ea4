"""Each worker of pytest-xdist has a core: with more threads, they would wait for one another."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
