"""A run over Pillow's own thousand odd, broken and hostile test images."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tarfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from command_line import Run
from PIL import Image

from pipeline.errors import DecodeError
from pipeline.sources import Images, decode_image

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of test images in the source archive of the installed Pillow."""
    pip = shutil.which("pip")  # uv cannot download an archive
    if pip is None:
        pytest.skip("no pip to fetch Pillow's source archive with")
    folder = tmp_path_factory.mktemp("pillow")
    wanted = ["--no-deps", "--no-binary", ":all:", f"pillow=={PIL.__version__}"]
    command = [pip, "download", "--quiet", "--dest", str(folder), *wanted]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode:
        pytest.skip(f"Pillow's source archive cannot be had: {done.stderr.strip()[-200:]}")
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        members = [m for m in tar.getmembers() if "/Tests/images/" in m.name and m.isfile()]
        tar.extractall(folder, members, filter="data")
    (images,) = folder.glob("*/Tests/images")
    return images


def test_each_file_is_done_or_failed_or_skipped(d2run: Run, corpus: Path, tmp_path: Path) -> None:
    job = ("model=shapes", "runnable=fake", f"input={corpus}", "output=run")
    done = d2run(*job, timeout=900)
    assert done.returncode == 3, done.stderr
    out = tmp_path / "cwd/run"
    predictions, failures = (
        [json.loads(line) for line in (out / name).read_text().splitlines()]
        for name in ("predictions.jsonl", "failures.jsonl")
    )
    fates = Counter(line["asset"] for line in predictions + failures)
    fates.update(entry.path for entry in Images(str(corpus)).skipped())
    files = [path.relative_to(corpus).as_posix() for path in corpus.rglob("*") if path.is_file()]
    assert fates == Counter(files)
    assert len(files) > 1000
    assert len(predictions) > 650
    assert {line["error"] for line in failures} == {"DecodeError"}
    assert all(line["message"] and "\n" not in line["message"] for line in failures)
    said = [line for line in done.stderr.splitlines() if not re.match(r"\d+/\d+ inputs", line)]
    assert len(said) == len(failures) + 1  # a line each, and no library's noise


def test_8_bit_pictures_are_those_of_detectron2(corpus: Path) -> None:
    """All that Pillow reads is read, but for one image: its data is garbage in every row."""
    read_image: Any = pytest.importorskip("detectron2.data.detection_utils").read_image
    compared = 0
    for path in sorted([*corpus.rglob("*.png"), *corpus.rglob("*.jpg")]):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # those of Pillow, outside of our decoder
                with Image.open(path) as image:
                    if image.mode.startswith("I"):
                        continue
                    image.load()
                expected = read_image(str(path), "BGR")
        except Exception:  # what Pillow cannot read is for the test above
            continue
        if path.name == "hopper_bad_exif.jpg":
            with pytest.raises(DecodeError, match="damaged JPEG"):
                decode_image(path.read_bytes())
            continue
        np.testing.assert_array_equal(decode_image(path.read_bytes()), expected, str(path))
        compared += 1
    assert compared > 400
