"""Verifies that a stored model is intact and still computes the same results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.errors import StoreError
from pipeline.models import architectures
from pipeline.runnables.detectron2 import Detectron2
from pipeline.store.api import selftest
from pipeline.store.api.building import load_module, stored_cfg
from pipeline.store.api.custom import import_modules
from pipeline.store.disk.version import SELFTEST, ModelVersion
from pipeline.system.devices import device_name, resolve_device
from pipeline.system.files import write_whole


def verify_model(
    root: Path, model: ModelVersion, *, device: str | None = None, force: bool = False
) -> str:
    """Compare a model's files with their digests, and its results with its self-test.

    The self-test is repeated once per environment: for each torch, Detectron2, NumPy, driver and
    CPU other than those it was recorded with. Otherwise, verifying only reads the files.

    Args:
        root: The store directory, which records the environments where the self-test passed.
        model: The model.
        device: Repeat the self-test on this device.
        force: Always repeat the self-test.

    Returns:
        The result as text to show to the user.

    Raises:
        ConfigError: d2run cannot run the model.
        ModelCorruptError: A file differs from what was saved.
        UntrustedModelError: The model requires its own modules, and was opened without ``trust``.
        StoreError: The model computes different results.
    """
    model.verify()
    intact = f"{len(model.info['files'])} files intact (digest {model.digest[:12]})"
    if SELFTEST not in model.info["files"]:
        with load_runnable(model, device or "cpu"):
            return f"{intact}; no self-test, but it runs"
    here = selftest.environment()
    note = _note(root, model, here)
    if here == model.info.get("selftest") and not force and device is None:
        return f"{intact}; self-test recorded in this environment"
    if note.exists() and not force and device is None:
        return f"{intact}; self-test passed earlier in this environment"
    found = repeat_selftest(model, device or "cpu")
    if device is None:
        with suppress(OSError):  # a read-only store can be verified too
            write_whole(note, json.dumps(here))
    how = (
        "bit-identical"
        if found.identical
        else f"largest difference {found.box_px:.2g} px, {found.score:.1g} in score"
    )
    return f"{intact}; self-test passed on {device_name(resolve_device(device or 'cpu'))}: {how}"


def repeat_selftest(model: ModelVersion, device_id: str) -> selftest.Comparison:
    """Run a stored model's self-test on a device.

    Raises:
        StoreError: The model computes different results; says which.
    """
    with load_runnable(model, device_id) as runnable:
        found = selftest.repeat(runnable, model.path / SELFTEST)
    if found.problems:
        then = model.info.get("selftest") or {}
        now = selftest.environment()
        changed = [f"{k} {then.get(k)} -> {now[k]}" for k in now if now[k] != then.get(k)]
        raise StoreError(
            f"'{model.tag}' computes different results on {runnable.device} than when it was "
            f"saved: {'; '.join(found.problems)} (changes since then: "
            f"{', '.join(changed) or 'none known'})"
        )
    return found


@contextmanager
def load_runnable(model: ModelVersion, device_id: str) -> Iterator[Detectron2]:
    """Load a stored model as for its self-test, and check that it runs.

    Raises:
        ConfigError: d2run cannot run it.
        StoreError: Its weights do not fit.
    """
    device = resolve_device(device_id)
    with architectures.quiet():
        if model.trust:
            import_modules(model)
        cfg = selftest.lenient_cfg(stored_cfg(model))
        module = load_module(model, cfg).eval().to(device)
        with selftest.open_runnable(
            str(model.tag), cfg, module, model.categories, device
        ) as runnable:
            yield runnable


def _note(root: Path, model: ModelVersion, here: dict[str, str | None]) -> Path:
    text = json.dumps([model.digest, here], sort_keys=True)
    return root / ".selftests" / hashlib.sha256(text.encode()).hexdigest()[:32]
