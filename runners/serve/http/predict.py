"""``POST /predict`` and ``POST /overlay``."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Depends, Query, Request, Response

from pipeline.errors import AssetError
from runners.serve.errors import RequestError
from runners.serve.http.answering import answers_to
from runners.serve.http.bodies import images
from runners.serve.http.formats import FORMATS, JSON, LINES
from runners.serve.http.openapi import BINARY, errors, images_body
from runners.serve.service import Service

router = APIRouter(tags=["predict"])

_LINE: dict[str, Any] = {
    "asset": "image",
    "frame": 0,
    "time_s": None,
    "width": 640,
    "height": 480,
    "image_id": 1,
    "instances": [
        {
            "box": [12.5, 30.0, 99.25, 80.0],
            "score": 0.98,
            "class_id": 0,
            "class_name": "crack",
            "mask": {"size": [480, 640], "counts": "o3>..."},
        }
    ],
}
_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The predictions: JSON for one image, JSON lines for several.",
        "content": {
            JSON: {"schema": {"type": "object"}, "example": _LINE},
            LINES: {"schema": {"type": "string"}},
        },
    }
}
_DRAWN: dict[int | str, dict[str, Any]] = {
    200: {"description": "The drawn image.", "content": {"image/jpeg": {"schema": BINARY}}}
}
_FORMAT = Query(
    default="jsonl",
    description="`jsonl`: one line of predictions.jsonl per image. `coco`: a COCO dataset. "
    "`roboflow`: the JSON of Roboflow's inference server.",
    json_schema_extra={"enum": list(FORMATS)},
)


def _refuse_unknown_query(request: Request) -> None:
    """Refuse parameters that would have no effect, such as thresholds: they are the job's."""
    known = ["format"] if request.url.path.endswith("/predict") else []
    for name in request.query_params:
        if name not in known:
            only = "; known: format" if known else ""
            raise RequestError(422, f"no parameter '{name:.60}'{only}")


_QUERY = [Depends(_refuse_unknown_query)]


@router.post(
    "/predict",
    responses=_ANSWER | errors(400, 415, 422),
    openapi_extra=images_body(True),
    dependencies=_QUERY,
)
async def predict(request: Request, format: str = _FORMAT) -> Response:
    """Return the predictions for one or more images.

    The body is an image, or a form (multipart/form-data) with one or more images. Several images
    are answered with one line each, in order; the line of an image that failed has its `error`.
    """
    if format not in FORMATS:
        raise RequestError(422, f"format={format:.60}: expected one of {', '.join(FORMATS)}")
    service: Service = request.app.state.service
    async with images(request) as bodies:
        answers = await answers_to(service, bodies)
    categories = service.job.model.categories
    content = await asyncio.to_thread(FORMATS[format], answers, categories)
    return Response(content.body, media_type=content.media_type)


@router.post(
    "/overlay",
    responses=_DRAWN | errors(400, 415, 422),
    openapi_extra=images_body(False),
    dependencies=_QUERY,
)
async def overlay(request: Request) -> Response:
    """Return an image as JPEG, with its detections drawn."""
    service: Service = request.app.state.service
    async with images(request) as bodies:
        if len(bodies) != 1:
            raise RequestError(422, f"expected one image, got {len(bodies)}")
        (answer,) = await answers_to(service, bodies)
    if isinstance(answer, AssetError):
        raise answer
    if answer.result is None:
        raise RequestError(422, f"{answer.frame.asset_id}: a stage dropped the image")
    drawing = service.overlay
    jpeg = await asyncio.to_thread(drawing.jpeg, answer.result.at_least(drawing.min_score))
    return Response(bytes(jpeg), media_type="image/jpeg")
