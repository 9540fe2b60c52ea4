"""Reads the images in the body of a request."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

from fastapi import Request
from starlette.datastructures import UploadFile

from runners.serve.errors import RequestError

NAME = "image"  # of a raw body, which has no name


@dataclass(frozen=True, slots=True)
class Body:
    """One image of a request.

    Attributes:
        name: Its asset id: the client's name for it.
        path: The file that holds it until the request is answered.
    """

    name: str
    path: Path


@asynccontextmanager
async def images(request: Request) -> AsyncIterator[list[Body]]:
    """Write the images of a request to files, which are removed afterwards.

    Raises:
        RequestError: There is no image.
    """
    directory: Path = request.app.state.service.directory
    bodies: list[Body] = []
    try:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "multipart/form-data":
            async with request.form() as form:
                for _, value in form.multi_items():
                    if isinstance(value, UploadFile):
                        body = Body(value.filename or NAME, directory / token_hex(8))
                        bodies.append(body)
                        body.path.write_bytes(await value.read())
        else:
            body = Body(NAME, directory / token_hex(8))
            bodies.append(body)
            with body.path.open("wb") as file:
                async for chunk in request.stream():
                    file.write(chunk)
        if not bodies:
            raise RequestError(422, "the request holds no image")
        yield bodies
    finally:
        for body in bodies:
            with suppress(FileNotFoundError):
                body.path.unlink()
