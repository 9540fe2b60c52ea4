"""Whether a stored model is what was saved, and still computes what it did then."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.errors import StoreError
from pipeline.models import architectures
from pipeline.models.weights.weights import load_weights, read_weights
from pipeline.runnables.detectron2 import Detectron2
from pipeline.store.api import selftest
from pipeline.store.api.custom import import_modules
from pipeline.store.api.predictor import build_stored, stored_cfg
from pipeline.store.disk.entry import SELFTEST, WEIGHTS, StoredModel
from pipeline.store.disk.local import ModelStore
from pipeline.system.devices import device_name, resolve_device
from pipeline.system.files import write_whole


def verified(
    store: ModelStore, entry: StoredModel, *, device: str | None = None, force: bool = False
) -> str:
    """Compare the files with their digests, and the model's results with its self-test.

    The self-test is repeated where it has not passed yet: with another torch, Detectron2, NumPy,
    driver or CPU than it was recorded with. So the second ``verify`` takes what the digests take.

    Args:
        store: Keeps where the self-test has passed.
        entry: The model.
        device: Repeat the self-test on this device.
        force: Repeat it in any case.

    Returns:
        What was found, for people.

    Raises:
        ConfigError: No run could run the model.
        ModelCorruptError: A file is not what was saved.
        UntrustedModelError: The model needs its own modules, and was not got with ``trust``.
        StoreError: The model computes something else than when it was saved.
    """
    entry.verify()
    whole = f"{len(entry.info['files'])} files as saved (digest {entry.digest[:12]})"
    if SELFTEST not in entry.info["files"]:
        with loaded(entry, device or "cpu"):
            return f"{whole}; it has no self-test, but runs"
    here = selftest.environment()
    note = _note(store, entry, here)
    if here == entry.info.get("selftest") and not force and device is None:
        return f"{whole}; self-test recorded in this very environment"
    if note.exists() and not force and device is None:
        return f"{whole}; self-test passed in this environment before"
    found = repeated(entry, device or "cpu")
    if device is None:
        with suppress(OSError):  # a store that is read-only is verified all the same
            write_whole(note, json.dumps(here))
    how = (
        "identical to the bit"
        if found.identical
        else f"largest differences {found.box_px:.2g} px, {found.score:.1g} in score"
    )
    return f"{whole}; self-test passed on {device_name(resolve_device(device or 'cpu'))}: {how}"


def repeated(entry: StoredModel, device_id: str) -> selftest.Comparison:
    """Run a stored model's self-test on a device.

    Raises:
        StoreError: The model computes something else than when it was saved; says what.
    """
    with loaded(entry, device_id) as runnable:
        found = selftest.repeat(runnable, entry.path / SELFTEST)
    if found.problems:
        then = entry.info.get("selftest") or {}
        now = selftest.environment()
        changed = [f"{k} {then.get(k)} -> {now[k]}" for k in now if now[k] != then.get(k)]
        raise StoreError(
            f"'{entry.tag}' computes something else on {runnable.device} than when it was saved: "
            f"{'; '.join(found.problems)} (changed since: {', '.join(changed) or 'nothing known'})"
        )
    return found


@contextmanager
def loaded(entry: StoredModel, device_id: str) -> Iterator[Detectron2]:
    """Load a stored model as for its self-test, and see that it runs.

    Raises:
        ConfigError: No run could run it.
        StoreError: Its weights do not fit.
    """
    device = resolve_device(device_id)
    with architectures.quiet():
        if entry.trust:
            import_modules(entry)
        cfg = selftest.lenient_cfg(stored_cfg(entry))
        module = build_stored(entry, cfg)
        load_weights(module, read_weights(entry.path / WEIGHTS), f"the weights of '{entry.tag}'")
        module = module.eval().to(device)
        with selftest.runnable_of(str(entry.tag), cfg, module, entry.categories, device) as found:
            yield found


def _note(store: ModelStore, entry: StoredModel, here: dict[str, str | None]) -> Path:
    text = json.dumps([entry.digest, here], sort_keys=True)
    return store.root / ".selftests" / hashlib.sha256(text.encode()).hexdigest()[:32]
