"""Files that are not weights: each is identified before torch is imported."""

import gzip
import io
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from pipeline.errors import ConfigError, ModelCorruptError
from pipeline.models.config_file import read_config
from pipeline.models.foreign import HEAD, describe, describe_text
from pipeline.models.weights.weights import read_weights
from pipeline.store import Model, ModelStore
from pipeline.store.exchange.incoming import import_model

MASK = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x"
LFS = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 177841981\n"
)


def tar():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model_final.pth"))
    return buffer.getvalue()


def zipped(*names):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return buffer.getvalue()


S3 = b"""<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"""
FILES = {
    "empty": (b"", "is empty"),
    "lfs": (LFS.encode(), "is a Git LFS pointer.*git lfs pull"),
    "html": (b"\n<!DOCTYPE html>\n<html><head><title>Google Drive", "is an HTML page"),
    "html-upper": (b"\xef\xbb\xbf<HTML>", "is an HTML page"),
    "html-comment": (b"<!-- saved --><html>", "is an HTML page"),
    "xml": (S3, "is an XML document with the error AccessDenied"),
    "json": (b'{"message": "Not Found"}', r'is JSON text \("\{'),
    "text": (b"404: Not Found", r'is text \("404: Not Found"\)'),
    "hugging-face": (b"Entry not found\n", r'is text \("Entry not found"\)'),
    "gzip": (gzip.compress(b"x" * 99), "is a gzip archive; unpack it"),
    "bzip2": (b"BZh91AY&SY" + bytes(9), "is a bzip2 archive"),
    "xz": (b"\xfd7zXZ\0" + bytes(9), "is an xz archive"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(9), "is a 7z archive"),
    "tar": (tar(), "is a tar archive"),
    "zip": (
        zipped("a/model_final.pth", "b"),
        "is a ZIP archive without .*model_final.pth",
    ),
    "torchscript": (
        zipped("m/data.pkl", "m/constants.pkl", "m/code/x.py"),
        "is a TorchScript model",
    ),
    "keras": (b"\x89HDF\r\n\x1a\n" + bytes(99), "is an HDF5 file"),
    "onnx": (b"\x08\x07\x12\x07pytorch\x1a\x032.1" + bytes(99), "is an ONNX model"),
    "tflite": (b"\x1c\0\0\0TFL3" + bytes(99), "is a TensorFlow Lite model"),
    "tensorflow": (b"\n\x99\x02\n\x07Const:\0\0tensorflow" + bytes(99), "is a TensorFlow model"),
    "numpy": (b"\x93NUMPY\x01\0" + bytes(99), "is a single NumPy array"),
    "image": (b"\x89PNG\r\n\x1a\n" + bytes(99), "is a PNG image"),
    "zeros": (bytes(4096), "is not a complete weight file"),
    "cut": (zipped("archive/data.pkl")[:60], "is not a complete weight file"),
}


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".safetensors"])
@pytest.mark.parametrize("name", FILES)
def test_weights(tmp_path, name, suffix):
    content, message = FILES[name]
    path = tmp_path / f"model_final{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelCorruptError, match=message) as caught:
        read_weights(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(path))


@pytest.mark.parametrize("name", ["lfs", "html", "xml", "gzip", "empty"])
def test_foreign_weights_are_reported_before_loading(tmp_path, name):
    content, message = FILES[name]
    path = tmp_path / "model_final.pth"
    path.write_bytes(content)
    model = Model(
        "m", config=MASK, weights=str(path), class_names=["a"], store=ModelStore(tmp_path / "s")
    )
    with pytest.raises(ConfigError, match=message):
        model.check()


@pytest.mark.parametrize("name", ["lfs", "html", "xml"])
def test_configs_and_archives(tmp_path, name):
    content, message = FILES[name]
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_config(str(tmp_path / "c.yaml"))
    (tmp_path / "m.tar.xz").write_bytes(content)
    with pytest.raises(ModelCorruptError, match=message):
        import_model(tmp_path / "m.tar.xz", store=ModelStore(tmp_path / "s"))


@pytest.mark.parametrize(
    "content",
    [b"# tensorflow, too\nMODEL: {}\n", b"{MODEL: {MASK_ON: true}}", b"<<: {A: 1}\nB: 2\n"],
)
def test_yaml_is_not_described_as_foreign(content):
    assert describe(content) is None


def test_pickle_that_looks_like_text():
    assert describe_text(b"\x80\x04" + b"]" * HEAD) is None


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("ultralytics.nn.tasks", "requires ultralytics.nn.tasks.Net .*Ultralytics YOLO model"),
        ("models.yolo", "requires models.yolo.Net .*YOLOv5"),
        ("mmengine.logging", "requires mmengine.logging.Net .*MMDetection"),
        (
            "detectron2.modeling",
            "requires detectron2.modeling.Net .*complete pickled.*state_dict",
        ),
        ("my_project", "requires my_project.Net, which could run code.*state_dict"),
    ],
)
def test_pickled_classes(tmp_path, module, message):
    path = tmp_path / "best.pt"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("best/data.pkl", f"\x80\x02c{module}\nNet\n)\x81.".encode("latin1"))
    path.write_bytes(buffer.getvalue())
    with pytest.raises(Exception, match=message) as caught:
        read_weights(path)
    assert str(path) in str(caught.value)


def test_foreign_files_are_identified_without_torch(tmp_path):
    (tmp_path / "w.pth").write_text(LFS)
    code = f"""
import sys
from pathlib import Path
from pipeline.models.weights.weights import read_weights
try:
    read_weights(Path({str(tmp_path / "w.pth")!r}))
except Exception as exc:
    assert "Git LFS" in str(exc)
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=True)


def test_downloaded_html_page_is_rejected(tmp_path, monkeypatch):
    from pipeline.models import download as module

    class Response(io.BytesIO):
        headers: dict[str, str] = {}  # noqa: RUF012

    monkeypatch.setattr(
        module.urllib.request, "urlopen", lambda *_, **__: Response(FILES["html"][0])
    )
    with pytest.raises(Exception, match="is an HTML page") as caught:
        module.download("https://host/model_final.pth", tmp_path)
    assert re.search("https://host/model_final.pth", str(caught.value))
    assert not list(tmp_path.rglob("*.pth"))
