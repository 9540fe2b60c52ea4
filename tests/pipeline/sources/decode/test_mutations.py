"""Ten thousand damaged images: each decodes or is refused, without a crash or another error."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from command_line import ROOT
from PIL import features

FORMATS = ["JPEG", "PNG", "WEBP", "AVIF", "BMP", "TIFF/tiff_lzw", "TIFF/jpeg", "GIF", "JPEG2000"]


@pytest.mark.nightly
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", FORMATS)
def test_spoilt_pictures(kind: str) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    script = str(ROOT / "tests/support/mutations.py")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", script, kind, "1250"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), f"{done.stdout}\n{done.stderr}"
    decoded, refused = map(int, done.stdout.split())
    assert decoded + refused == 1250
    assert refused > 0
