"""What becomes of each odd file: its pixels, or the reason in words; and at what cost."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import ROOT
from odd_files import odd_files

from pipeline.errors import DecodeError
from pipeline.sources import decode_image
from pipeline.sources.auto import auto

FILES = {file.name: file for file in odd_files()}
IMAGES = [name for name, f in FILES.items() if not f.skipped and not name.endswith(".mp4")]


def corners(image: np.ndarray) -> np.ndarray:
    """RGB a sixth of the way in from each corner, in the middle of a flat patch."""
    y, x = (np.array([0, size - 1]) + size // 6 * np.array([1, -1]) for size in image.shape[:2])
    return image[np.ix_(y, x)][:, :, ::-1].reshape(4, 3)


@pytest.mark.parametrize("name", IMAGES)
def test_decode(name: str) -> None:
    file = FILES[name]
    if file.refused:
        with pytest.raises(DecodeError, match="^" + file.refused):
            decode_image(file.data)
    else:
        image = decode_image(file.data)
        assert image.shape == (*file.size, 3)
        np.testing.assert_allclose(corners(image).astype(int), file.corners, atol=8)


def test_the_walk(tmp_path: Path) -> None:
    for file in FILES.values():
        (tmp_path / file.name).touch()
    source = auto(str(tmp_path))
    assert {asset.id for asset in source} == {f.name for f in FILES.values() if not f.skipped}
    skipped = {entry.path: entry.reason for entry in source.skipped()}
    assert skipped == {f.name: f.skipped for f in FILES.values() if f.skipped}


MEASURE = """
import sys
from pathlib import Path
from pipeline.errors import DecodeError
from pipeline.sources import decode_image

def peak_mb():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024

warm, *bombs = (Path(path).read_bytes() for path in sys.argv[1:])
decode_image(warm)
before = peak_mb()
for data in bombs:
    try:
        decode_image(data)
    except DecodeError:
        continue
    sys.exit("a bomb was decoded")
print(peak_mb() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_bombs_take_no_memory(tmp_path: Path) -> None:
    bombs = [f for f in FILES.values() if re.match(r"\d+mp|huge|text-bomb", f.name)]
    assert len(bombs) == 10
    for file in [FILES["icc.jpg"], *bombs]:
        (tmp_path / file.name).write_bytes(file.data)
    names = ["icc.jpg", *(file.name for file in bombs)]
    command = [sys.executable, "-c", MEASURE, *names]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 50
