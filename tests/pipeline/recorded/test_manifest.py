"""``manifest.sha256``: what it lists, its order, and which digests of the last run stay."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from pathlib import Path

import pytest

from pipeline.errors import OutputError
from pipeline.recorded.manifest import (
    NAME,
    Manifest,
    compute_digests,
    read_manifest,
    write_manifest,
)

NAMES = ["b.json", "overlay/", "missing.json", "a.json"]
ODD = ("a b.jpg", "new\nline.jpg", "back\\slash.jpg", "back\\nslash.jpg", "é.jpg", "\udcff.jpg")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "overlay/sub").mkdir(parents=True)
    for name in ("b.json", "a.json", "run.json", "overlay/sub/x.jpg", *ODD):
        path = tmp_path / (name if name not in ODD else f"overlay/{name}")
        path.write_bytes(os.fsencode(name) * 1000)
    return tmp_path


def write(output: Path, kept: Manifest | None = None, since_ns: int = 0) -> Manifest:
    return write_manifest(output, NAMES, kept.digests if kept else {}, since_ns)


def test_every_output_is_listed_in_the_order_of_bytes(output: Path) -> None:
    written = write(output)
    names = list(written.digests)
    assert names == sorted(names, key=os.fsencode)
    assert set(names) == {"a.json", "b.json", "overlay/sub/x.jpg", *(f"overlay/{n}" for n in ODD)}
    assert written.digests["a.json"] == hashlib.sha256(b"a.json" * 1000).hexdigest()
    assert written.sha256 == hashlib.sha256((output / NAME).read_bytes()).hexdigest()
    assert read_manifest(output).digests == written.digests
    assert write(output).sha256 == written.sha256


def test_sha256sum_reads_it(output: Path) -> None:
    written = write(output)
    command = ["sha256sum", "-c", "--strict", NAME]
    done = subprocess.run(command, cwd=output, capture_output=True, check=False)
    assert (done.returncode, done.stdout.count(b": OK\n")) == (0, len(written.digests))
    (output / "overlay/new\nline.jpg").write_bytes(b"other")
    done = subprocess.run(command, cwd=output, capture_output=True, check=False)
    assert (done.returncode, done.stdout.count(b": FAILED\n")) == (1, 1)


def test_links_and_temporary_files_are_not_listed(output: Path) -> None:
    before = write(output).digests
    (output / "overlay/link.jpg").symlink_to(output / "run.json")
    (output / "overlay/.0123456789abcdef.part").write_bytes(b"half")
    assert write(output).digests == before


def test_digests_stay_for_files_that_were_not_written_since(output: Path) -> None:
    first = write(output)
    (output / "overlay/é.jpg").write_bytes(b"by another program")
    time.sleep(0.02)  # longer than a tick of the file system's clock
    (output / "started").touch()
    since_ns = (output / "started").stat().st_mtime_ns
    (output / "overlay/a b.jpg").write_bytes(b"by the run")
    (output / "a.json").unlink()
    second = write(output, first, since_ns)
    changed = {k for k, v in second.digests.items() if first.digests[k] != v}
    assert changed == {"overlay/a b.jpg"}
    assert second.n_bytes == len(b"by the run")
    assert first.digests.keys() - second.digests.keys() == {"a.json"}
    found = compute_digests(output, first.digests)
    assert {k for k, v in found.items() if v != second.digests.get(k)} == {"overlay/é.jpg"}
    assert found["a.json"] is None


def test_a_damaged_manifest_is_reported(output: Path) -> None:
    assert read_manifest(output) == Manifest()
    (output / NAME).write_bytes(b"0" * 64 + b"  a.json\n" + b"0" * 60 + b"  b.json\n")
    with pytest.raises(OutputError, match="line 2 is damaged"):
        read_manifest(output)
