"""Where a result file comes from: its run, model and input, as the run directory records them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.recorded.manifest import NAME as MANIFEST
from pipeline.recorded.manifest import compute_digests, read_manifest
from pipeline.recorded.run import INPUTS, RECORD, RecordedRun
from pipeline.system.files import asset_id_of, expanded, output_name


def find_provenance(path: str) -> dict[str, Any]:
    """Return what a run directory records of one of its files, as plain values.

    Args:
        path: The file, such as ``runs/night/overlay/a.jpg.jpg``.

    Returns:
        ``file``: name in the run directory, SHA-256, and whether ``manifest.sha256`` agrees
        (``matches``, ``changed``, ``not listed``, or ``no manifest``); ``run``, ``model``, and
        ``input``: the asset, its SHA-256, size and outcome; ``None`` if the file is of the whole
        run.

    Raises:
        ConfigError: There is no such file, or no run in a directory above it.
        OutputError: The run is damaged.
    """
    file = expanded(path)
    if not file.is_file():
        raise ConfigError(f"'{path}': no such file")
    run = _run_of(file)
    name = file.relative_to(run.path).as_posix()
    record = run.record
    model = {key: value for key, value in run.model.items() if key != "fingerprint"}
    return {
        "file": {"name": name, **_digest(run, name)},
        "run": {
            "path": str(run.path),
            **{key: record.get(key) for key in ("start", "end", "exit_status", "command")},
            "fingerprint": record["fingerprint"],
            "device": dict(record.get("device") or {}).get("name"),
            "versions": record.get("versions"),
        },
        "model": model,
        "input": _input_of(run, name),
    }


def _run_of(file: Path) -> RecordedRun:
    for directory in file.parents:
        if (directory / RECORD).is_file():
            return RecordedRun(directory)
    raise ConfigError(f"'{file}' is not in a run directory: no directory above it has a {RECORD}")


def _digest(run: RecordedRun, name: str) -> dict[str, Any]:
    digest = compute_digests(run.path, [name])[name]
    recorded = run.record.get("manifest")
    manifest = read_manifest(run.path)
    if not isinstance(recorded, dict) or manifest.sha256 != recorded.get("sha256"):
        agrees = "no manifest"
    elif name not in manifest.digests:
        agrees = "not listed"
    else:
        agrees = "matches" if manifest.digests[name] == digest else "changed"
    return {"sha256": digest, MANIFEST: agrees}


def _input_of(run: RecordedRun, name: str) -> dict[str, Any] | None:
    """Return the input that the name of a file leads to.

    A file is named after the whole asset id and a suffix; those of frames and instances are in a
    directory named after the asset id.
    """
    outputs = [each for names in run.record.get("outputs", {}).values() for each in names]
    tails = [name[len(each) :] for each in outputs if each.endswith("/") and name.startswith(each)]
    best: tuple[int, dict[str, Any]] | None = None
    for line in run.lines(INPUTS):
        asset_id = asset_id_of(line)
        if not any(_leads_to(asset_id, tail) for tail in tails):
            continue
        if best is None or len(asset_id) > best[0]:  # x.jpg.png is of x.jpg, even beside x
            best = len(asset_id), line
    if best is None:
        return None
    line = best[1]
    return {
        "asset": line["asset"],
        "sha256": line["sha256"],
        "size": line["size"],
        "outcome": line["outcome"],
        "path": _path_of(run, asset_id_of(line)),
    }


def _leads_to(asset_id: str, tail: str) -> bool:
    if tail.startswith(f"{output_name(asset_id, '')}/"):
        return True
    base = tail.rpartition("/")[2]
    suffixes = [base[i:] for i, char in enumerate(base) if char == "." and i]
    return any(output_name(asset_id, suffix) == tail for suffix in suffixes)


def _path_of(run: RecordedRun, asset_id: str) -> str | None:
    """Return where the input is, if it still is where the run found it."""
    for origins in run.origins:
        for origin in origins:
            for path in (Path(origin["path"], asset_id), Path(origin["path"])):
                if path.name == asset_id.rpartition("/")[2] and path.is_file():
                    return str(path)
    return None
