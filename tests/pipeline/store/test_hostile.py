"""Small files that could hang a reader or use all memory; each ends with an error."""

import hashlib
import io
import json
import os
import pickle
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[3]
READER = ROOT / "tests" / "support" / "hostile_reader.py"
MB = 256  # maximum memory for reading one file


@pytest.fixture(scope="module")
def reader():
    with subprocess.Popen(
        [sys.executable, str(READER)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"

        def read(kind, path):
            process.stdin.write(json.dumps([kind, str(path)]) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield read
        process.stdin.close()


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def shared_key():
    """A dict whose key is a tuple of shared tuples: its hash takes 2**60 steps."""
    tuples = b")" + b"\x94h\x00\x86" + b"".join(b"\x94h" + bytes([i]) + b"\x86" for i in range(60))
    return b"\x80\x04}" + tuples + b"K\x01s."


def doubled(make):
    value = make("ha", "ha")
    for _ in range(28):
        value = make(value, value)
    return pickle.dumps(value, protocol=4)


def grown_lists():
    """One list whose items double at each step."""
    return b"\x80\x04]\x94(" + b"h\x00" * 4 + b"e" + b"(h\x00h\x00e" * 40 + b"."


def many_arrays():
    """One megabyte that is the content of ten thousand arrays."""
    make = b"cnumpy.core.numeric\n_frombuffer\n"
    dtype = b"cnumpy\ndtype\n" + text("u1") + b"\x85R"
    data = b"B" + struct.pack("<I", 1 << 20) + bytes(1 << 20)
    head = b"\x80\x04" + data + b"\x940" + make + b"\x940" + dtype + b"\x940}"
    item = b"h\x01(h\x00h\x02" + b"J" + struct.pack("<i", 1 << 20) + b"\x85" + text("C") + b"tR"
    return head + b"".join(text(f"k{i}") + item + b"s" for i in range(10_000)) + b"."


def torch_zip(data, compression=zipfile.ZIP_STORED, **members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("a/data.pkl", data)
        for name, content in members.items():
            archive.writestr(f"a/data/{name.removeprefix('_')}", content)
    return buffer.getvalue()


def tensor(storage, size, stride, numel=1, offset=0):
    pid = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(storage) + text("cpu")
    pid += b"J" + struct.pack("<i", numel) + b"tQ"
    numbers = b"".join(b"\x8a\x08" + struct.pack("<q", n) for n in size)
    strides = b"".join(b"\x8a\x08" + struct.pack("<q", n) for n in stride)
    args = b"(" + pid + b"\x8a\x08" + struct.pack("<q", offset)
    args += b"(" + numbers + b"t(" + strides + b"t\x89}t"
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + args + b"R"


def of_tensors(*tensors):
    items = b"".join(text(f"w{i}") + one + b"s" for i, one in enumerate(tensors))
    return b"\x80\x02}" + items + b"."


def safetensors_header(header):
    return struct.pack("<Q", len(header)) + header


def huge_npz():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        part = io.BytesIO()
        np.lib.format.write_array(part, np.zeros((100 << 20,), np.uint8))
        archive.writestr("image.npy", part.getvalue())
    return buffer.getvalue()


def npz_of_shape(shape):
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': %s, }" % str(shape).encode()
    header = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image.npy", header)
    return buffer.getvalue()


LAUGHS = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
MERGES = "a0: &a0 {k: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{','.join([f'*a{i - 1}'] * 9)}], k{i}: 1}}\n" for i in range(1, 12)
)
YAML = {
    "laughs": (LAUGHS, "more than 5000 values"),
    "merges": (MERGES, "more than 5000 values"),
    "itself": ("a: &a [*a]\n", "an alias that contains itself"),
    "itself-merged": ("a: &a {<<: *a}\n", "an alias that contains"),
    "nested": ("a: " + "[" * 100_000, "nested too deeply"),
    "nested-blocks": ("a:\n" + "".join(" " * i + "a:\n" for i in range(1, 80)), "nested more than"),
    "many": ("a: [" + "1," * 100_000 + "]", "more than 5000 values"),
    "number": ("a: " + "9" * 100_000, "a number of 100000 characters"),
    "hexadecimal": ("a: 0x" + "f" * 100_000, "a number of 100002 characters"),
    "sexagesimal": ("a: " + "1:" * 100_000 + "1", "a number of 200001 characters"),
    "sexagesimal-fraction": ("a: " + "1:" * 10_000 + "1.5", "a number of 20003 characters"),
    "not-a-date": ("a: !!timestamp x", "not valid YAML|does not fit its tag"),
    "not-a-number": ("a: !!int ''", "does not fit its tag"),
    "not-a-boolean": ("a: !!bool x", "does not fit its tag"),
    "month-13": ("a: 2020-13-45", "month must be"),
    "anchors": ("".join(f"a{i}: &a{i} x\n" for i in range(15_000)), "more than 5000 values"),
    "large": ("a: '" + "x" * (5 << 20) + "'", "more than 4194304"),
    "complex-key": ("? [a]\n: b\n", "unhashable|not text"),
    "html": ("<!DOCTYPE html><html></html>", "is an HTML page"),
}
_ONLY_CONFIG = ("month-13", "not-a-date", "html")  # dates of BentoML are text
WEIGHTS = {
    "hash": ("pkl", shared_key(), "a key that is neither text nor a number"),
    "hash-in-zip": ("pth", torch_zip(shared_key()), "a key that is neither text nor a number"),
    "binbytes8": (
        "pkl",
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 31),
        "not a complete weight",
    ),
    "bytearray8": (
        "pkl",
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 31),
        "not a complete weight",
    ),
    "unicode8": ("pkl", b"\x80\x04\x8d" + struct.pack("<Q", 1 << 31), "not a complete weight"),
    "frame": ("pkl", b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b".", "not a complete weight"),
    "long4": (
        "pkl",
        b"\x80\x02\x8b" + struct.pack("<i", (1 << 31) - 1),
        "not a complete weight",
    ),
    "long4-there": (
        "pkl",
        b"\x80\x02\x8b" + struct.pack("<i", 1 << 20) + b"\xff" * ((1 << 20) - 1) + b"\x01.",
        "a number of 8388601 bits",
    ),
    "digits": ("pkl", b"\x80\x02L" + b"9" * 1_000_000 + b"L\n.", "not a complete weight"),
    "memo": ("pkl", b"\x80\x02]r\xff\xff\xff\x7f.", "has no weights"),
    "memo-text": ("pkl", b"\x80\x02]p999999999999\n.", "has no weights"),
    "marks": ("pkl", b"\x80\x02" + b"(" * 200_000 + b".", "too many values"),
    "lists": ("pkl", b"\x80\x02" + b"]" * 200_000 + b".", "too many values"),
    "grown": ("pkl", grown_lists(), "too (many|deep)|nested too"),
    "doubled": ("pkl", doubled(lambda a, b: [a, b]), "too (many|deep)"),
    "deep": ("pkl", b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".", "too deep"),
    "arrays": ("pkl", many_arrays, "more arrays than the file has bytes"),
    "dtype": (
        "pkl",
        b"\x80\x02cnumpy\ndtype\n" + text("i4," * 100_000) + b"\x85R.",
        "requires an array|not a whole",
    ),
    "zip-bomb": (
        "pth",
        lambda: torch_zip(  # takes seconds
            of_tensors(tensor("0", [1], [1])), compression=zipfile.ZIP_DEFLATED, _0=bytes(1 << 30)
        ),
        "compressed members",
    ),
    "zip-bomb-pickle": (
        "pth",
        lambda: torch_zip(b"\x80\x02" + b"]" * (64 << 20), zipfile.ZIP_DEFLATED),
        "compressed members",
    ),
    "strides": (
        "pth",
        torch_zip(of_tensors(tensor("0", [1 << 40, 1 << 20], [0, 0])), _0=bytes(4)),
        None,  # one number, declared as many: it is read, and fits no model
    ),
    "reaches-beyond": (
        "pth",
        torch_zip(of_tensors(tensor("0", [1000], [1])), _0=bytes(4)),
        "cannot read 'w0'",
    ),
    "before": (
        "pth",
        torch_zip(of_tensors(tensor("0", [1], [1], offset=-1)), _0=bytes(4)),
        "cannot read 'w0'",
    ),
    "overflow": (
        "pth",
        torch_zip(of_tensors(tensor("0", [(1 << 63) - 1] * 9, [(1 << 63) - 1] * 9)), _0=bytes(4)),
        "cannot read 'w0'",
    ),
    "no-storage": ("pth", torch_zip(of_tensors(tensor("1", [1], [1]))), "cannot read 'w0'"),
    "two-pickles": ("pth", torch_zip(b"N.", **{"x/data.pkl": b"N."}), "ZIP archive without"),
    "zip-directory": (
        "pth",
        b"PK\x03\x04"
        + bytes(60)
        + b"PK\x05\x06"
        + struct.pack("<4H2LH", 0, 0, 1, 1, 1 << 31, 0, 0),
        "not a complete weight",
    ),
    "header": ("safetensors", struct.pack("<Q", 1 << 63) + b"{", "a header of 9223372036854775808"),
    "header-large": (
        "safetensors",
        struct.pack("<Q", 20 << 20) + b"{" + b" " * (20 << 20),
        "a header of 20971520 bytes",
    ),
    "header-nested": (
        "safetensors",
        safetensors_header(b'{"a":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}"),
        "not a complete weight",
    ),
    "header-offsets": (
        "safetensors",
        safetensors_header(b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4]}}')
        + bytes(4),
        "not a complete weight",
    ),
}
NAMES = {
    "nested": (".json", "[" * 200_000, "not valid JSON"),
    "nested-ids": (".json", '{"categories":' + '{"a":' * 200_000, "not valid JSON"),
    "digits": (
        ".json",
        '{"categories":[{"id":' + "9" * 100_000 + ',"name":"a"}]}',
        "valid JSON|id",
    ),
    "laughs": (".yaml", LAUGHS, "more than 5000 values"),
    "merges": (".yml", MERGES, "more than 5000 values"),
}


def check(answer, message):
    assert answer["signal"] == 0, answer
    assert answer["mb"] < MB, answer
    if message is None:
        assert answer["error"] is None, answer
        return
    assert answer["error"] in ("ConfigError", "ModelCorruptError", "UntrustedModelError"), answer
    assert re.search(message, answer["text"]), answer
    assert len(answer["text"]) < 1000, answer


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, "config" if name in _ONLY_CONFIG else ("bento", "plain", "entry")[i % 3])
        for i, name in enumerate(YAML)
    ],
)
def test_yaml(reader, tmp_path, name, kind):
    content, message = YAML[name]
    in_folder = kind in ("bento", "entry")
    path = tmp_path / ("model.yaml" if in_folder else "c.yaml")
    body = content.encode()
    if kind == "entry":  # the digest is valid, because anyone can compute it
        body = f"name: m\nversion: v\n{content.replace('a:', 'labels:', 1)}\n".encode()
        body += b"digest: " + hashlib.sha256(body).hexdigest().encode() + b"\n"
    path.write_bytes(body)
    answer = reader(kind, tmp_path if in_folder else path)
    if "cannot read" in answer["text"]:  # too large to read
        assert answer["error"] in ("StoreError", "ConfigError"), answer
        answer |= {"error": "ConfigError"}
    check(answer, message)


def written(path, content):
    path.write_bytes(content() if callable(content) else content)
    return path


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights(reader, tmp_path, name):
    suffix, content, message = WEIGHTS[name]
    check(reader("weights", written(tmp_path / f"w.{suffix}", content)), message)


@pytest.mark.parametrize("name", [name for name, case in WEIGHTS.items() if case[0] == "pkl"])
def test_bento_custom_objects(reader, tmp_path, name):
    check(reader("objects", written(tmp_path / "custom_objects.pkl", WEIGHTS[name][1])), "")


@pytest.mark.parametrize("name", NAMES)
def test_names(reader, tmp_path, name):
    suffix, content, message = NAMES[name]
    check(reader("names", written(tmp_path / f"names{suffix}", content.encode())), message)


@pytest.mark.parametrize(
    "content",
    [huge_npz, npz_of_shape((1 << 40,)), npz_of_shape((4000, 4000, 3))],
    ids=["bomb", "shape", "image"],
)
def test_selftests(reader, tmp_path, content):
    check(reader("selftest", written(tmp_path / "selftest.npz", content)), "not a valid self-test")


@pytest.mark.parametrize(
    "names", [r'["\ud800"]', r'["a\0"]', '[""]', "[yes]", "[1.5]", "[[a]]", "a", "null", "{a: 1}"]
)
def test_names_in_a_sealed_model_yaml(reader, tmp_path, names):
    body = f"""name: m
version: v
categories: {{thing_names: {names}, thing_ids: [1], stuff_names: [], stuff_ids: [],
  keypoint_names: [], skeleton: []}}
""".encode()
    digest = hashlib.sha256(body).hexdigest().encode()
    written(tmp_path / "model.yaml", body + b"digest: " + digest + b"\n")
    check(reader("entry", tmp_path), "the class names of 'm:v' are damaged")


def make_special(path, kind):
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")


@pytest.mark.parametrize("kind", ["fifo", "socket", "folder", "device"])
@pytest.mark.parametrize(
    ("reader_name", "file"),
    [("weights", "w.pth"), ("weights", "w.safetensors"), ("weights", "w.pkl"),
     ("config", "c.yaml"), ("plain", "c.yaml"), ("names", "n.json"), ("names", "n.txt")],
)  # fmt: skip
def test_special_files(reader, tmp_path, monkeypatch, kind, reader_name, file):
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    make_special(Path(file), kind)
    answer = reader(reader_name, tmp_path / file)
    assert answer["signal"] == 0, answer
    assert answer["error"] in ("ConfigError", "StoreError"), answer


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_import(tmp_path, number):
    """With a file at the size limit, which takes seconds to read."""
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "config.yaml").write_text("VERSION: 2\n")
    (tmp_path / "output" / "model_final.pkl").write_bytes(b"\x80\x02]" + b"]a" * 499_000 + b".")
    command = [sys.executable, "-m", "pipeline.store", "import", str(tmp_path / "output")]
    with subprocess.Popen(
        [*command, "--root", str(tmp_path / "root")],
        cwd=ROOT,
        stderr=subprocess.PIPE,
    ) as process:
        while not (tmp_path / "root").exists():
            time.sleep(0.01)
        process.send_signal(number)
        status = process.wait(60)
        assert status in (128 + number, 1), (
            process.stderr.read()
        )  # 1: the import had failed already
        assert not [path for path in (tmp_path / "root").rglob("*") if path.is_file()]
