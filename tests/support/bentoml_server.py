"""What a user of d2run or BentoML has in this process, and BentoML's server in another one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

ROOT = Path(__file__).parents[2]


def with_store(kind: str, folder: Path) -> Iterator[SimpleNamespace]:
    """Yield the module that a user imports, with an empty store, and the one with ``delete``."""
    bentoml = pytest.importorskip("bentoml")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is deprecated, in modules that are loaded lazily
        assert bentoml.detectron.get
        assert bentoml.models.get
    if kind == "d2run":
        from pipeline import store as detectron

        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("D2RUN_HOME", str(folder / "d2run"))
            yield SimpleNamespace(kind=kind, home=folder, detectron=detectron, models=detectron)
        return
    from bentoml._internal.configuration.containers import BentoMLContainer
    from bentoml._internal.models import ModelStore

    models = folder / "bentoml" / "models"
    models.mkdir(parents=True)
    BentoMLContainer.model_store.set(ModelStore(models))
    detectron, models = bentoml.detectron, bentoml.models
    yield SimpleNamespace(kind=kind, home=folder, detectron=detectron, models=models)
    BentoMLContainer.model_store.reset()


def environment(home: Path) -> dict[str, str]:
    """Return the variables of a process with the stores ``home/d2run`` and ``home/bentoml``."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "D2RUN_HOME": str(home / "d2run"),
        "BENTOML_HOME": str(home / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": str(torch.get_num_threads()),  # it affects the last digits
        "PYTHONPATH": str(ROOT),
    }


@contextmanager
def served(*arguments: str, env: dict[str, str], log: Path) -> Iterator[str]:
    """Run ``bentoml serve`` in another process, and yield the address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "bentoml", "serve", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as output:
        server = subprocess.Popen([*command, *arguments], env=env, stdout=output, stderr=output)
        try:
            address = f"http://127.0.0.1:{port}"
            end = time.monotonic() + 110
            while request(f"{address}/readyz")[0] != 200:
                assert server.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < end, log.read_text()[-3000:]
                time.sleep(0.1)
            yield address
        finally:
            server.terminate()
            server.wait(timeout=60)


def request(url: str, body: bytes | None = None, kind: str = "image/png") -> tuple[int, str]:
    """Return the status and the answer."""
    asked = urllib.request.Request(url, data=body, headers={"Content-Type": kind})
    try:
        with urllib.request.urlopen(asked, timeout=100) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as exc:
        return exc.code, exc.read().decode()
    except OSError:
        return 0, ""
