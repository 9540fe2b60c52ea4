"""Reads the images in the body of a request."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

from fastapi import Request

from pipeline.system.os_errors import describe_os_error
from runners.serve.errors import RequestError
from runners.serve.http.guard import names
from runners.serve.http.guard.forms import Form
from runners.serve.service import Service

_FORM = "multipart/form-data"
# without a type, and as `curl --data-binary` labels every body
_RAW = ("", "application/octet-stream", "application/x-www-form-urlencoded")
_FULL_RETRY_S = 10


@dataclass(frozen=True, slots=True)
class Body:
    """One image of a request.

    Attributes:
        name: Its asset id, from the client's name for it; distinct in the request.
        path: The file that holds it until the request is answered.
    """

    name: str
    path: Path


@asynccontextmanager
async def images(request: Request) -> AsyncIterator[list[Body]]:
    """Write the images of a request to files, which are removed afterwards.

    Raises:
        RequestError: There is no image, the body is of another type, or cannot be stored.
    """
    service: Service = request.app.state.service
    given = request.headers.get("content-type", "")
    kind = given.partition(";")[0].strip().lower()
    if kind != _FORM and kind not in _RAW and not kind.startswith("image/"):
        raise RequestError(
            415,
            f"the body must be an image or a form ({_FORM}), not {names.asset_name(kind.encode())}",
        )
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise RequestError(415, "the body must not have a Content-Encoding")
    service.check_room()  # before the body is read; ``Service`` counts its images afterwards
    bodies: list[Body] = []
    known: set[str] = set()

    def new_file(name: bytes) -> BinaryIO:
        path = service.directory / token_hex(16)
        bodies.append(Body(names.distinct(names.asset_name(name), known), path))
        return _create(path)

    try:
        with storage_errors():
            if kind == _FORM:
                form = Form(given, new_file, service.options.max_queue)
                try:
                    async for chunk in request.stream():
                        await asyncio.to_thread(form.write, chunk)
                finally:
                    form.close()
                form.finish()
            else:
                with new_file(b"") as file:
                    async for chunk in request.stream():
                        await asyncio.to_thread(file.write, chunk)
        if not bodies:
            raise RequestError(422, "the form has no image: send it as a file, as curl -F does")
        yield bodies
    finally:
        for body in bodies:
            with suppress(OSError):
                body.path.unlink()


def _create(path: Path) -> BinaryIO:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileNotFoundError:  # the system has cleaned up its temporary directory
        path.parent.mkdir(0o700)
        descriptor = os.open(path, flags, 0o600)
    return open(descriptor, "wb")  # noqa: PTH123


@contextmanager
def storage_errors() -> Iterator[None]:
    """Translate the errors of a full or missing disk into the answer to a request."""
    try:
        yield
    except OSError as exc:
        raise RequestError(
            503, f"the service cannot store the request: {describe_os_error(exc)}", _FULL_RETRY_S
        ) from exc
