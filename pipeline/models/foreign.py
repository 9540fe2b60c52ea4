"""Identifies files that are not models by their first bytes."""

from __future__ import annotations

import json
import re

from pipeline.errors import printable

HEAD = 1024  # bytes that are enough to identify a file

_SIGNATURES = (
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"BZh", "a bzip2 archive; unpack it first"),
    (b"\xfd7zXZ\0", "an xz archive; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive; unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it first"),
    (b"Rar!", "a RAR archive; unpack it first"),
    (b"\x89HDF\r\n", "an HDF5 file, as Keras writes; give weights of a Detectron2 model"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"%PDF", "a PDF document"),
    (b"\x93NUMPY", "a single NumPy array"),
    (b"\x7fELF", "a program"),
)
_LFS = b"version https://git-lfs.github.com/spec/"
_HTML = re.compile(rb"<(!doctype\s+html|html|head|body|script|title)\b|<!--", re.IGNORECASE)
_XML = re.compile(rb"<(\?xml|[A-Za-z])")
_MESSAGE = re.compile(rb"<Code>([^<]{1,80})</Code>")
_RETRY = "saved instead of the file; download it again"


class ForeignFileError(Exception):
    """The file is of another kind; the message says which."""


def describe(head: bytes) -> str | None:
    """Return what a file is, by its first ``HEAD`` bytes; ``None`` if it can be a model.

    Text is left to ``describe_text``, because a pickle of protocol 0 is text as well.
    """
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not head:
        return "empty; download or copy it again"
    if start.startswith(_LFS):
        return "a Git LFS pointer, not the file itself: run `git lfs pull` in its repository"
    if _HTML.match(start):
        return f"an HTML page (a download or login page) {_RETRY}"
    if _XML.match(start):
        code = _MESSAGE.search(head)
        error = f" with the error {printable(code[1].decode('latin1'))}" if code else ""
        return f"an XML document{error}, {_RETRY}"
    if head[257:262] == b"ustar":
        return "a tar archive; unpack it first"
    if head[4:8] == b"TFL3":
        return "a TensorFlow Lite model; give weights of a Detectron2 model"
    if head[:1] == b"\x08" and any(word in head[:200] for word in (b"pytorch", b"onnx", b"ONNX")):
        return "an ONNX model; give the PyTorch weights it was exported from"
    if b"tensorflow" in head.lower() and not describe_text(head):
        return "a TensorFlow model; give weights of a Detectron2 model"
    return next((what for mark, what in _SIGNATURES if head.startswith(mark)), None)


def describe_text(head: bytes) -> str | None:
    """Return a description of an unreadable file that begins like text; ``None`` for others."""
    if head.startswith(b"\x80"):  # a pickle can look like text
        return None
    text = head.decode("utf-8", "replace")
    plain = sum(c.isprintable() or c.isspace() for c in text)
    if "\0" in text or plain < 0.98 * len(text):
        return None
    kind = "JSON text" if text.lstrip().startswith(("{", "[")) else "text"
    return f"{kind} ({_first_line(head)}) {_RETRY}"


def _first_line(start: bytes) -> str:
    line = start.decode("utf-8", "replace").strip().split("\n")[0]
    return json.dumps(printable(line[:60]), ensure_ascii=False)
