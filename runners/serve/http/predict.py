"""``POST /predict`` and ``POST /overlay``."""

from __future__ import annotations

import asyncio
import json

from fastapi import APIRouter, Request, Response

from pipeline.encoding import renumbered
from pipeline.errors import AssetError
from runners.serve.errors import RequestError
from runners.serve.http.answering import answers_to
from runners.serve.http.bodies import images
from runners.serve.service import Service
from runners.serve.uploads import Answer

router = APIRouter(tags=["predict"])


@router.post("/predict")
async def predict(request: Request) -> Response:
    """Return one line of predictions.jsonl per image.

    The body is an image, or a form (multipart/form-data) with one or more images.
    """
    service: Service = request.app.state.service
    async with images(request) as bodies:
        answers = await answers_to(service, bodies)
    lines = (_line(answer, i) for i, answer in enumerate(answers, 1))
    return Response(b"".join(lines), media_type="application/json")


@router.post("/overlay")
async def overlay(request: Request) -> Response:
    """Return the image as JPEG, with its detections drawn."""
    service: Service = request.app.state.service
    async with images(request) as bodies:
        if len(bodies) != 1:
            raise RequestError(422, f"expected one image, got {len(bodies)}")
        answer = await service.predict(bodies[0].path, bodies[0].name)
    if answer.result is None:
        raise RequestError(422, f"{answer.frame.asset_id}: a stage dropped the image")
    jpeg = await asyncio.to_thread(service.overlay.jpeg, answer.result)
    return Response(bytes(jpeg), media_type="image/jpeg")


def _line(answer: Answer | AssetError, image_id: int) -> bytes:
    if isinstance(answer, AssetError):
        record = {"asset": answer.asset_id, "error": str(answer), "step": answer.step}
        return json.dumps(record).encode() + b"\n"
    if not answer.line:
        return json.dumps({"asset": answer.frame.asset_id, "dropped": True}).encode() + b"\n"
    return next(renumbered([answer.line], image_id))
