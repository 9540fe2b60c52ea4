"""Routes for monitors: is the process alive, does it accept requests, what does it run."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from pipeline.protocols import DescribedRunnable, NumericRunnable
from pipeline.system.versions import VERSION
from runners.serve.http.serving import Serving

router = APIRouter(tags=["health"])


@router.get("/livez")
@router.head("/livez", include_in_schema=False)
async def livez() -> Response:
    """Answer 200 while the process is alive."""
    return Response("ok\n", media_type="text/plain")


@router.get("/readyz")
@router.head("/readyz", include_in_schema=False)
async def readyz(request: Request) -> Response:
    """Answer 200 while requests are accepted, otherwise 503."""
    service: Serving = request.app.state.service
    return Response(
        f"{service.state}\n", 200 if service.state == "ok" else 503, media_type="text/plain"
    )


@router.get("/info")
async def info(request: Request) -> dict[str, Any]:
    """Return the version, the model and its classes, the devices and the numerics."""
    service: Serving = request.app.state.service
    model, runnable = service.job.model, service.job.runnable
    device = dict(runnable.describe()) if isinstance(runnable, DescribedRunnable) else {}
    if service.devices:
        device["devices"] = list(service.devices)
    categories = model.categories
    return {
        "version": VERSION,
        "model": model.identity(),
        "class_names": categories.thing_names,
        "stuff_names": categories.stuff_names,
        "keypoint_names": categories.keypoint_names,
        "skeleton": categories.skeleton,
        "numerics": runnable.numerics if isinstance(runnable, NumericRunnable) else {},
        **device,
    }
