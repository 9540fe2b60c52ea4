"""The Open Inference Protocol (KServe v2): for its clients, such as ``tritonclient[http]``.

A request has n images, as files. The outputs hold the instances of all of them, those of the first
image first; ``counts`` says how many instances each image has.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from secrets import token_hex
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from pipeline.errors import AssetError
from pipeline.system.versions import VERSION
from runners.serve.errors import RequestError
from runners.serve.http.answering import answers_to
from runners.serve.http.bodies import Body, storage_errors
from runners.serve.http.kserve.outputs import OUTPUTS, known_outputs, output_tensors
from runners.serve.http.kserve.requests import InferRequest, Wanted, read_request
from runners.serve.http.kserve.tensors import HEADER_LENGTH, INPUT, write_response
from runners.serve.http.openapi import BINARY, errors, inlined
from runners.serve.service import Service
from runners.serve.uploads import Answer

router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])

_EXTENSIONS = ["binary_tensor_data", "model_configuration"]
_CONFIG_TYPES = {"FP32": "TYPE_FP32", "INT64": "TYPE_INT64", "BYTES": "TYPE_STRING"}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": inlined(InferRequest),
                "example": {
                    "inputs": [
                        {"name": INPUT, "shape": [1], "datatype": "BYTES", "data": ["/9j/4AAQ..."]}
                    ]
                },
            },
            "application/octet-stream": {"schema": BINARY},
        },
    }
}
_TENSORS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The outputs: JSON, followed by binary tensors if the request wants them.",
        "content": {
            "application/json": {
                "example": {
                    "model_name": "shapes",
                    "model_version": "1",
                    "outputs": [
                        {"name": "scores", "datatype": "FP32", "shape": [1], "data": [0.98]},
                        {"name": "counts", "datatype": "INT64", "shape": [1], "data": [1]},
                    ],
                }
            },
            "application/octet-stream": {"schema": BINARY},
        },
    }
}


@router.get("")
async def server() -> dict[str, Any]:
    """Return the name and the version of the server, and the extensions that it supports."""
    return {"name": "d2run", "version": VERSION, "extensions": _EXTENSIONS}


@router.get("/health/live")
async def live() -> dict[str, bool]:
    """Answer 200 while the process is alive."""
    return {"live": True}


@router.get("/health/ready")
async def ready(request: Request) -> Response:
    """Answer 200 while requests are accepted, otherwise 503."""
    is_ready = _service(request).state == "ok"
    return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)


@router.get("/models/{name}", responses=errors(404))
@router.get("/models/{name}/versions/{version}", responses=errors(404))
async def metadata(request: Request, name: str, version: str | None = None) -> dict[str, Any]:
    """Return the inputs and outputs of the model."""
    service = _service(request, name, version)
    own_version = model_name(service)[1]
    outputs = known_outputs(service.job.runnable)
    return {
        "name": name,
        "versions": [] if own_version is None else [own_version],
        "platform": "detectron2",
        "inputs": [{"name": INPUT, "datatype": "BYTES", "shape": [-1]}],
        "outputs": [
            {"name": output, "datatype": OUTPUTS[output].datatype, "shape": OUTPUTS[output].shape}
            for output in outputs
        ],
    }


@router.get("/models/{name}/config", responses=errors(404))
@router.get("/models/{name}/versions/{version}/config", responses=errors(404))
async def config(request: Request, name: str, version: str | None = None) -> dict[str, Any]:
    """Return the inputs and outputs in the form of Triton's model configuration."""
    outputs = known_outputs(_service(request, name, version).job.runnable)
    return {
        "name": name,
        "platform": "detectron2",
        "max_batch_size": 0,  # the first dimension is written out
        "input": [{"name": INPUT, "data_type": "TYPE_STRING", "dims": [-1]}],
        "output": [
            {
                "name": output,
                "data_type": _CONFIG_TYPES[OUTPUTS[output].datatype],
                "dims": OUTPUTS[output].shape,
            }
            for output in outputs
        ],
    }


@router.get("/models/{name}/ready", responses=errors(404))
@router.get("/models/{name}/versions/{version}/ready", responses=errors(404))
async def model_ready(request: Request, name: str, version: str | None = None) -> Response:
    """Answer 200 while requests are accepted, otherwise 503."""
    is_ready = _service(request, name, version).state == "ok"
    return JSONResponse({"name": name, "ready": is_ready}, 200 if is_ready else 503)


@router.post(
    "/models/{name}/infer", responses=_TENSORS | errors(400, 404, 415, 422), openapi_extra=_BODY
)
@router.post(
    "/models/{name}/versions/{version}/infer",
    responses=_TENSORS | errors(400, 404, 415, 422),
    openapi_extra=_BODY,
)
async def infer(request: Request, name: str, version: str | None = None) -> Response:
    """Return the predictions for the images of a request.

    In JSON, images are in base64; with the binary tensor extension, they are the files' bytes.
    """
    service = _service(request, name, version)
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise RequestError(415, "the body must not have a Content-Encoding")
    known = known_outputs(service.job.runnable)
    length = request.headers.get(HEADER_LENGTH)
    body = await request.body()
    wanted = await asyncio.to_thread(read_request, body, length, known)
    async with _stored(service, wanted.images) as bodies:
        answers = [_complete(one) for one in await answers_to(service, bodies)]
    return await asyncio.to_thread(_response, service, wanted, answers)


def _response(service: Service, wanted: Wanted, answers: Sequence[Answer]) -> Response:
    name, version = model_name(service)
    head: dict[str, Any] = {"model_name": name}
    if version is not None:
        head["model_version"] = version
    if wanted.id is not None:
        head["id"] = wanted.id
    if n_dropped := sum(answer.result is None for answer in answers):
        head["parameters"] = {"dropped": n_dropped}
    names = wanted.outputs or known_outputs(service.job.runnable)
    tensors = output_tensors(answers, names)
    content, length = write_response(head, tensors, wanted.binary)
    if length is None:
        return Response(content, media_type="application/json")
    headers = {HEADER_LENGTH: str(length)}
    return Response(content, media_type="application/octet-stream", headers=headers)


def model_name(service: Service) -> tuple[str, str | None]:
    """Return the name and the version by which clients address the model.

    They are those of the store. A model that is not stored has no version.
    """
    identity = service.job.model.identity()
    name, _, version = str(identity.get("tag") or identity["name"]).partition(":")
    return name, version or None


def _service(request: Request, name: str | None = None, version: str | None = None) -> Service:
    """Return the service.

    Raises:
        RequestError: The model has another name or version.
    """
    service: Service = request.app.state.service
    own_name, own_version = model_name(service)
    if name not in (None, own_name):
        raise RequestError(404, f"no model {name[:60]!r}: this service has {own_name!r}")
    if version not in (None, own_version):
        has = "no version" if own_version is None else f"version {own_version!r}"
        raise RequestError(404, f"no version {version[:60]!r}: the model {own_name!r} has {has}")
    return service


def _complete(answer: Answer | AssetError) -> Answer:
    """Return an answer; the outputs have no place for the error of one image."""
    if isinstance(answer, AssetError):
        raise answer
    return answer


@asynccontextmanager
async def _stored(service: Service, images: Sequence[bytes]) -> AsyncIterator[list[Body]]:
    """Write images to files, which are removed afterwards."""
    names = [INPUT] if len(images) == 1 else [f"{INPUT} {i}" for i in range(1, len(images) + 1)]
    bodies = [Body(name, service.directory / token_hex(16)) for name in names]
    try:
        with storage_errors():
            for body, image in zip(bodies, images, strict=True):
                await asyncio.to_thread(body.path.write_bytes, image)
        yield bodies
    finally:
        for body in bodies:
            with suppress(OSError):
                body.path.unlink()
