"""Archives for tests, of a directory or of names and contents."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path


def pack(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """Write an archive, whose suffix says of which kind; with a time that tests can rely on."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members:
                archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
        return path
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def pack_folder(path: Path, folder: Path) -> Path:
    """Pack the files of a directory, in the order in which a run over it lists them."""
    from pipeline.sources.scan import scan

    pack(path, [(name, (folder / name).read_bytes()) for name in scan(folder).images])
    # old, so that the next run trusts it without reading its members
    os.utime(path, ns=(1_700_000_000_000_000_000 + path.stat().st_size,) * 2)
    return path
