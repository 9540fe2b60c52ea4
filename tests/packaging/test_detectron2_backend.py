"""The in-tree build backend of detectron2, offline: a small stand-in for the published wheel."""

import base64
import csv
import hashlib
import importlib.util
import subprocess
import zipfile
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "packaging" / "detectron2"
WHEEL = "detectron2-0.7.2-py3-none-any.whl"
DIST_INFO = "detectron2-0.7.2.dist-info"
YAML = "detectron2/model_zoo/configs/Base.yaml"
KEPT = {"detectron2/__init__.py": b"__version__ = '0.7.2'\n", YAML: b"MODEL: {}\n"}
DROPPED = {
    "detectron2/_C.cpython-310-x86_64-linux-gnu.so": b"\x7fELF",
    "tools/__init__.py": b"",
    "sal_detectron2-0.7.2.dist-info/METADATA": b"Name: sal-detectron2\n",
}


@pytest.fixture
def backend():
    spec = importlib.util.spec_from_file_location("detectron2_backend", FOLDER / "backend.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {**DROPPED, **KEPT}.items():
            archive.writestr(name, data)
    return path


@pytest.fixture
def offline(backend, source, monkeypatch):
    """The backend, with the stand-in in place of the download and its digest pinned."""
    monkeypatch.setattr(backend, "download", lambda folder: source)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    monkeypatch.setattr(backend, "SOURCE_SHA256", digest)
    return backend


def build(backend, folder):
    folder.mkdir()
    assert backend.build_wheel(str(folder)) == WHEEL
    return folder / WHEEL


def test_wheel_holds_python_and_yaml_but_no_extension(offline, tmp_path):
    with zipfile.ZipFile(build(offline, tmp_path / "out")) as wheel:
        names = [name for name in wheel.namelist() if not name.startswith(DIST_INFO)]
        assert {name: wheel.read(name) for name in names} == KEPT


def test_metadata(offline, tmp_path):
    with zipfile.ZipFile(build(offline, tmp_path / "out")) as wheel:
        metadata = wheel.read(f"{DIST_INFO}/METADATA").decode()
        tags = wheel.read(f"{DIST_INFO}/WHEEL").decode()
        assert f"{DIST_INFO}/licenses/LICENSE" in wheel.namelist()
    header, _, description = metadata.partition("\n\n")
    lines = header.splitlines()
    assert lines[:3] == ["Metadata-Version: 2.4", "Name: detectron2", "Version: 0.7.2"]
    assert "License-Expression: Apache-2.0" in lines
    assert "Requires-Dist: setuptools<82" in lines
    assert "Requires-Dist: numpy" in lines
    assert "sal-detectron2" in next(line for line in lines if line.startswith("Summary: "))
    assert description == (FOLDER / "README.md").read_text(encoding="utf-8")
    assert "Root-Is-Purelib: true\nTag: py3-none-any\n" in tags


def test_record_lists_every_file_with_its_digest(offline, tmp_path):
    with zipfile.ZipFile(build(offline, tmp_path / "out")) as wheel:
        record = wheel.read(f"{DIST_INFO}/RECORD").decode()
        rows = list(csv.reader(record.splitlines()))
        assert [row[0] for row in rows] == wheel.namelist()
        assert rows.pop() == [f"{DIST_INFO}/RECORD", "", ""]
        for name, digest, size in rows:
            data = wheel.read(name)
            expected = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
            assert (digest, int(size)) == (f"sha256={expected}", len(data))


def test_two_builds_are_identical(offline, tmp_path):
    first = build(offline, tmp_path / "first").read_bytes()
    assert build(offline, tmp_path / "second").read_bytes() == first


def test_prepared_metadata_is_that_of_the_wheel_and_needs_no_download(backend, offline, tmp_path):
    wheel = build(offline, tmp_path / "out")
    offline.download = None
    folder = tmp_path / "metadata"
    assert backend.prepare_metadata_for_build_wheel(str(folder)) == DIST_INFO
    with zipfile.ZipFile(wheel) as archive:
        for path in (path for path in folder.rglob("*") if path.is_file()):
            assert path.read_bytes() == archive.read(path.relative_to(folder).as_posix())


def test_wrong_digest_is_refused(offline, tmp_path, monkeypatch):
    monkeypatch.setattr(offline, "SOURCE_SHA256", "0" * 64)
    with pytest.raises(SystemExit, match="not the reviewed file") as error:
        build(offline, tmp_path / "out")
    assert "0" * 64 in str(error.value)
    assert not list((tmp_path / "out").iterdir())


def test_failed_download_says_what_was_tried_and_what_to_do(backend, tmp_path, monkeypatch):
    def pip(command, **_):
        return subprocess.CompletedProcess(command, 1, "", "ERROR: Connection refused\n")

    monkeypatch.setattr(backend.subprocess, "run", pip)
    with pytest.raises(SystemExit) as error:
        backend.build_wheel(str(tmp_path))
    text = str(error.value)
    assert "sal-detectron2==0.7.2 could not be downloaded" in text
    assert "Tried: python -m pip download" in text
    assert "  ERROR: Connection refused\n" in text
    assert "PIP_INDEX_URL" in text
    assert "uv sync --no-install-package detectron2" in text


def test_source_archive_is_refused(backend, tmp_path):
    with pytest.raises(SystemExit, match="pip wheel --no-deps"):
        backend.build_sdist(str(tmp_path))


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        pytest.param({}, {}, id="nothing set: pip's configuration files decide"),
        pytest.param({"UV_INDEX_URL": "u"}, {"PIP_INDEX_URL": "u"}, id="uv's old name"),
        pytest.param({"UV_DEFAULT_INDEX": "n=u"}, {"PIP_INDEX_URL": "u"}, id="a named index"),
        pytest.param({"UV_DEFAULT_INDEX": "u", "PIP_INDEX_URL": "p"}, {}, id="pip's own wins"),
        pytest.param({"UV_INDEX": "a=u v?w=1"}, {"PIP_EXTRA_INDEX_URL": "u v?w=1"}, id="more"),
        pytest.param({"UV_FIND_LINKS": "a,b"}, {"PIP_FIND_LINKS": "a b"}, id="folders"),
        pytest.param({"UV_OFFLINE": "1"}, {"PIP_NO_INDEX": "1"}, id="offline"),
    ],
)
def test_uv_index_settings_reach_pip(backend, environ, expected):
    assert backend.pip_environment(environ) == {**environ, **expected}
