"""``POST /predict`` and ``POST /overlay``."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request, Response

from pipeline.encoding import renumbered
from runners.serve.errors import RequestError
from runners.serve.http.bodies import images
from runners.serve.service import Service

router = APIRouter(tags=["predict"])


@router.post("/predict")
async def predict(request: Request) -> Response:
    """Return one line of predictions.jsonl per image.

    The body is an image, or a form (multipart/form-data) with one or more images.
    """
    service: Service = request.app.state.service
    async with images(request) as bodies:
        answers = await asyncio.gather(*(service.predict(b.path, b.name) for b in bodies))
    lines = renumbered((answer.line for answer in answers), 1)
    return Response(b"".join(lines), media_type="application/json")


@router.post("/overlay")
async def overlay(request: Request) -> Response:
    """Return the image as JPEG, with its detections drawn."""
    service: Service = request.app.state.service
    async with images(request) as (body,):
        answer = await service.predict(body.path, body.name)
    if answer.result is None:
        raise RequestError(422, f"{body.name}: a stage dropped the image")
    jpeg = await asyncio.to_thread(service.overlay.jpeg, answer.result)
    return Response(bytes(jpeg), media_type="image/jpeg")
