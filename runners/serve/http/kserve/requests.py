"""Reads the requests of the Open Inference Protocol; all input is untrusted."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from runners.serve.errors import RequestError
from runners.serve.http.kserve.tensors import HEADER_LENGTH, INPUT, LENGTH

_IGNORED = {"priority", "timeout"}  # hints that a server may ignore

Parameters = dict[str, bool | int | float | str]
Dimension = Annotated[int, Field(ge=0, lt=1 << 31)]


class RequestInput(BaseModel, strict=True):
    """An input tensor.

    Attributes:
        name: `image`.
        shape: `[n]` or `[1, n]` for n images.
        datatype: `BYTES`.
        parameters: `binary_data_size` if the data follows the JSON.
        data: The files of the images in base64, if the data is in the JSON.
    """

    name: str
    shape: list[Dimension] = Field(max_length=8)
    datatype: str
    parameters: Parameters = {}
    data: list[Any] | None = None


class RequestOutput(BaseModel, strict=True):
    """An output that is wanted.

    Attributes:
        name: Its name.
        parameters: `binary_data`: whether its data follows the JSON.
    """

    name: str
    parameters: Parameters = {}


class InferRequest(BaseModel, strict=True):
    """A request.

    Attributes:
        id: Is returned with the response.
        parameters: `binary_data_output`: whether the data of all outputs follows the JSON.
        inputs: One tensor.
        outputs: The wanted outputs; by default all.
    """

    id: str | None = None
    parameters: Parameters = {}
    inputs: list[RequestInput]
    outputs: list[RequestOutput] = []


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a request wants.

    Attributes:
        id: Is returned with the response.
        images: The files of the images.
        outputs: The names of the wanted outputs; ``None`` for all.
        binary: The names of the outputs whose data follows the JSON; ``None`` for all.
    """

    id: str | None
    images: list[bytes]
    outputs: list[str] | None
    binary: set[str] | None


def read_request(body: bytes, header_length: str | None, known_outputs: Sequence[str]) -> Wanted:
    """Read a request.

    Args:
        body: The body.
        header_length: The header ``Inference-Header-Content-Length``; ``None`` if there is none.
        known_outputs: The names of the model's outputs.

    Raises:
        RequestError: The request is malformed, or asks for what the model does not have.
    """
    text, rest = _split(body, header_length)
    try:
        request = InferRequest.model_validate_json(text)
    except ValidationError as exc:
        raise RequestError(400, f"the request is malformed: {_first(exc)}") from None
    _check_parameters("request", request.parameters, {"binary_data_output"} | _IGNORED)
    outputs = _outputs(request, known_outputs)
    if [tensor.name for tensor in request.inputs] != [INPUT]:
        names = ", ".join(repr(tensor.name[:60]) for tensor in request.inputs[:5]) or "none"
        raise RequestError(400, f"expected one input, named '{INPUT}', got {names}")
    return Wanted(request.id, _images(request.inputs[0], rest), *outputs)


def _split(body: bytes, header_length: str | None) -> tuple[bytes, bytes | None]:
    """Return the JSON, and what follows it; ``None`` if there is no header for it."""
    if header_length is None:
        return body, None
    length = int(header_length) if header_length.isdecimal() and len(header_length) < 12 else -1
    if not 0 <= length <= len(body):
        raise RequestError(
            400,
            f"{HEADER_LENGTH}: expected the length of the JSON, 0 to {len(body)} bytes, "
            f"got {header_length[:60]!r}",
        )
    return body[:length], body[length:]


def _outputs(
    request: InferRequest, known: Sequence[str]
) -> tuple[list[str] | None, set[str] | None]:
    """Return the wanted outputs and the binary ones, as in ``Wanted``."""
    default = _flag(request.parameters, "binary_data_output", False)
    if not request.outputs:
        return None, None if default else set()
    names: list[str] = []
    binary: set[str] = set()
    for output in request.outputs:
        if output.name not in known:
            raise RequestError(
                400, f"no output {output.name[:60]!r}: the model has {', '.join(known)}"
            )
        if output.name in names:
            raise RequestError(400, f"output '{output.name}' is requested twice")
        _check_parameters(f"output '{output.name}'", output.parameters, {"binary_data"})
        names.append(output.name)
        if _flag(output.parameters, "binary_data", default):
            binary.add(output.name)
    return names, binary


def _images(tensor: RequestInput, rest: bytes | None) -> list[bytes]:
    if tensor.datatype != "BYTES":
        raise RequestError(
            400,
            f"input '{INPUT}': expected datatype BYTES, the files of the images, "
            f"got {tensor.datatype[:60]!r}",
        )
    _check_parameters(f"input '{INPUT}'", tensor.parameters, {"binary_data_size", "content_type"})
    n = prod(tensor.shape) if tensor.shape else 0
    if n < 1 or n != max(tensor.shape):
        raise RequestError(
            400, f"input '{INPUT}': expected shape [n] or [1, n] for n images, got {tensor.shape}"
        )
    images = list(_elements(tensor, rest))
    if len(images) != n:
        raise RequestError(
            400, f"input '{INPUT}': expected {n} images for shape {tensor.shape}, got {len(images)}"
        )
    return images


def _elements(tensor: RequestInput, rest: bytes | None) -> Iterator[bytes]:
    size = tensor.parameters.get("binary_data_size")
    if (size is None) == (tensor.data is None):
        raise RequestError(
            400, f"input '{INPUT}': expected either data or parameters.binary_data_size"
        )
    if tensor.data is not None:
        if rest:
            raise RequestError(400, f"{len(rest)} bytes follow the JSON, but no input is binary")
        yield from (_decoded(element) for element in _flat(tensor.data))
        return
    if rest is None:
        raise RequestError(400, f"binary_data_size needs the header {HEADER_LENGTH}")
    if type(size) is not int or size != len(rest):
        raise RequestError(
            400, f"input '{INPUT}': binary_data_size is {size!r:.60}, but {len(rest)} bytes follow"
        )
    position = 0
    while position < size:
        start = position + LENGTH.size
        length = LENGTH.unpack_from(rest, position)[0] if start <= size else size
        position = start + length
        if position > size:
            raise RequestError(
                400, f"input '{INPUT}': an element is longer than the {size} bytes of the tensor"
            )
        yield rest[start:position]


def _flat(data: list[Any]) -> Iterator[Any]:
    """Yield the elements of a list, or of a list of lists."""
    for element in data:
        yield from element if isinstance(element, list) else (element,)


def _decoded(element: Any) -> bytes:
    try:
        if isinstance(element, str):
            return b64decode(element, validate=True)
    except ValueError:
        pass
    raise RequestError(400, f"input '{INPUT}': in JSON, expected the files of the images in base64")


def _check_parameters(owner: str, given: Parameters, known: set[str]) -> None:
    if unknown := sorted(given.keys() - known):
        raise RequestError(
            400,
            f"{owner}: the parameter {unknown[0][:60]!r} is not supported; expected "
            f"{', '.join(sorted(known))}",
        )


def _flag(given: Parameters, name: str, default: bool) -> bool:
    value = given.get(name, default)
    if not isinstance(value, bool):
        raise RequestError(
            400, f"the parameter '{name}': expected true or false, got {value!r:.60}"
        )
    return value


def _first(error: ValidationError) -> str:
    """Return the first problem as one sentence."""
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    path = ".".join(ascii(part).strip("'")[:60] for part in problem["loc"][:6])
    message = f"{problem['msg'][:1].lower()}{problem['msg'][1:]}"
    return f"{path}: {message}" if path else message
