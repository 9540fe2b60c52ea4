"""Reads the files of ``torch.save``, within the limits of ``opcodes``.

``torch.load(weights_only=True)`` runs no foreign code, but a few bytes can make it hash or allocate
endlessly, in C code that no signal interrupts. Both formats of torch are simple: a pickle that
describes the tensors, and their bytes, which are read when a tensor is loaded.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.errors import printable
from pipeline.models.foreign import ForeignFileError
from pipeline.models.weights.opcodes import Placeholder, RefusedError, interpret
from pipeline.models.weights.unpickle import ArrayNames, plain_copy
from pipeline.system.files import RegularFile

if TYPE_CHECKING:
    from torch import Tensor

ZIP = b"PK\x03\x04"
_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the first pickle in files before torch 1.6
_PROTOCOL = 1001
_MAX_PICKLE = 256 << 20  # bytes, without the tensors
_LOCAL = struct.Struct("<4s5H3I2H")  # header of a zip member

_TYPES = {  # names of storages before torch 2.1
    "Float": "float32", "Double": "float64", "Half": "float16", "BFloat16": "bfloat16",
    "Long": "int64", "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8",
    "Bool": "bool", "ComplexFloat": "complex64", "ComplexDouble": "complex128",
}  # fmt: skip
_DTYPES = {
    *_TYPES.values(), "uint16", "uint32", "uint64",
    "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz",
}  # fmt: skip
_UNTYPED = "uint8"


@dataclass(frozen=True, slots=True)
class _Type:
    """Placeholder of a dtype, or of the storage class for that dtype."""

    dtype: str


@dataclass(frozen=True, slots=True)
class _Storage:
    """The bytes of one or more tensors: their key, dtype and number of elements."""

    key: str
    dtype: str
    numel: int


@dataclass(frozen=True, slots=True)
class LazyTensor:
    """A tensor that is read from an open file on request."""

    _file: _File
    _storage: _Storage
    _dtype: str
    _offset: int
    _size: tuple[int, ...]
    _stride: tuple[int, ...]

    def load(self) -> Tensor:
        """Read the tensor.

        Raises:
            Exception: The tensor extends beyond its storage or the file.
        """
        import torch

        dtype = getattr(torch, self._dtype)
        data = self._file.read(self._storage)
        flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        return torch.as_strided(flat, self._size, self._stride, self._offset)


class _File:
    """A file of ``torch.save``: the offsets of its storages, and the bytes read so far."""

    def __init__(self, file: RegularFile) -> None:
        self.file = file
        self.places: dict[str, tuple[int, int]] = {}  # offset and length in bytes, by key
        self._read: dict[str, bytearray] = {}
        self._left = file.size

    def read(self, storage: _Storage) -> bytearray:
        if storage.key not in self._read:
            offset, length = self.places[storage.key]
            self._left -= length
            if self._left < 0 or offset + length > self.file.size:
                raise ValueError("more tensors than the file has bytes")
            data = bytearray(length)
            self.file.seek(offset)
            if self.file.readinto(data) != length:
                raise EOFError("a tensor ends too early")
            self._read[storage.key] = data
        return self._read[storage.key]

    def persistent(self, pid: Any) -> _Storage:
        kind, type_, key, _, numel, *views = pid
        if kind != "storage" or not isinstance(type_, _Type) or any(views):
            raise RefusedError(f"a persistent id of type {str(kind)[:80]!r}")
        return _Storage(str(key), type_.dtype, int(numel))

    def names(self) -> Callable[[str], Any]:
        """Return the function that maps the names in the pickle to placeholders."""
        arrays = ArrayNames(self.file.size)
        known: dict[str, Any] = {
            "torch._utils._rebuild_tensor": Placeholder(self._tensor),
            "torch._utils._rebuild_tensor_v2": Placeholder(self._tensor),
            "torch._utils._rebuild_tensor_v3": Placeholder(self._tensor_of_type),
            "torch._utils._rebuild_parameter": Placeholder(lambda data, *_: data),
            "torch._utils._rebuild_parameter_with_state": Placeholder(lambda data, *_: data),
            "torch._tensor._rebuild_from_type_v2": Placeholder(_of_type),
            "torch.nn.parameter.Parameter": Placeholder(lambda data, *_: data),
            "torch.Tensor": Placeholder(lambda data, *_: data),
            "torch.Size": Placeholder(lambda sizes=(): tuple(sizes)),
            "torch.device": Placeholder(lambda *parts: ":".join(map(str, parts))),
            "torch.storage.UntypedStorage": _Type(_UNTYPED),
            **{f"torch.{kind}Storage": _Type(dtype) for kind, dtype in _TYPES.items()},
            **{f"torch.{dtype}": _Type(dtype) for dtype in _DTYPES},
        }
        return lambda name: known[name] if name in known else arrays(name)

    def _tensor(
        self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any, dtype: str = ""
    ) -> LazyTensor:
        sizes, strides = (tuple(int(n) for n in numbers) for numbers in (size, stride))
        if not isinstance(storage, _Storage) or len(sizes) != len(strides):
            raise RefusedError("a tensor without a storage")
        return LazyTensor(self, storage, dtype or storage.dtype, int(offset), sizes, strides)

    def _tensor_of_type(
        self, storage: Any, offset: Any, size: Any, stride: Any, *more: Any
    ) -> LazyTensor:
        return self._tensor(storage, offset, size, stride, dtype=more[2].dtype)


def _of_type(function: Any, _: Any, args: Any, *__: Any) -> Any:
    if not isinstance(function, Placeholder):
        raise RefusedError("construction of an object")
    return function(*args)


def is_legacy(head: bytes) -> bool:
    """Return whether a file with these first bytes is in the format of torch before 1.6."""
    return head.startswith(b"\x80") and _MAGIC in head[:32]


def load_zip(file: RegularFile) -> Any:
    """Return the content of a file of torch 1.6 or later; tensors are LazyTensor.

    Raises:
        ForeignFileError: The file is another kind of archive; says which.
        RefusedError: The file requires code; says which.
        Exception: The file is damaged; any type.
    """
    opened = _File(file)
    with zipfile.ZipFile(file) as archive:
        members = {member.filename: member for member in archive.infolist()}
        if len(members) != len(archive.infolist()):
            raise ValueError("two members with the same name")
    pickles = [name for name in members if name.rpartition("/")[2] == "data.pkl"]
    if any(name.rpartition("/")[2] == "constants.pkl" for name in members):
        raise ForeignFileError(
            "a TorchScript model; give the weights: torch.save(model.state_dict(), PATH)"
        )
    if len(pickles) != 1:
        shown = printable(", ".join(list(members)[:3])[:120])
        raise ForeignFileError(f"a ZIP archive without PyTorch weights ({shown}); unpack it")
    root = pickles[0].removesuffix("data.pkl")
    for name, member in members.items():
        opened.places[name] = _place(file, member)
    for name in list(opened.places):
        if name.startswith(f"{root}data/"):
            opened.places[name.removeprefix(f"{root}data/")] = opened.places[name]
    if _content(file, opened.places.get(f"{root}byteorder", (0, 0))) not in (b"", b"little"):
        raise ValueError("numbers in big-endian byte order")
    data = _content(file, opened.places[pickles[0]])
    value = interpret(io.BytesIO(data), opened.names(), calls=True, persistent=opened.persistent)
    return plain_copy(value)


def _place(file: RegularFile, member: zipfile.ZipInfo) -> tuple[int, int]:
    if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
        raise ValueError("compressed members, which torch.save does not write")
    file.seek(member.header_offset)
    signature, *_, name, extra = _LOCAL.unpack(file.read(_LOCAL.size))
    if signature != ZIP:
        raise ValueError("a member without a header")
    return member.header_offset + _LOCAL.size + name + extra, member.file_size


def _content(file: RegularFile, place: tuple[int, int]) -> bytes:
    offset, length = place
    if length > _MAX_PICKLE:
        raise ValueError(f"a pickle of {length} bytes")
    file.seek(offset)
    return file.read(length)


def load_legacy(file: RegularFile) -> Any:
    """Return the content of a file of torch before 1.6; tensors are LazyTensor.

    Raises:
        RefusedError: The file requires code; says which.
        Exception: The file is damaged; any type.
    """
    opened = _File(file)
    storages: dict[str, _Storage] = {}

    def persistent(pid: Any) -> _Storage:
        storage = opened.persistent(pid)
        return storages.setdefault(storage.key, storage)

    names = opened.names()
    _, protocol, system = (interpret(file, names) for _ in range(3))
    if protocol != _PROTOCOL or not system.get("little_endian", True):
        raise ValueError(f"protocol {protocol!r:.20}, or numbers in big-endian byte order")
    value = interpret(file, names, calls=True, persistent=persistent)
    for key in interpret(file, names, calls=True):
        (numel,) = struct.unpack("<q", file.read(8))
        if numel != storages[str(key)].numel:
            raise ValueError("a storage whose length differs from its tensors'")
        length = numel * _itemsize(storages[str(key)].dtype)
        opened.places[str(key)] = (file.tell(), length)
        file.seek(length, io.SEEK_CUR)
    return plain_copy(value)


def _itemsize(dtype: str) -> int:
    import torch

    return int(getattr(torch, dtype).itemsize)
