"""Routes for monitors: is the process alive, does it accept requests, what does it run."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from pipeline.protocols import DescribedRunnable
from runners.serve.service import Service

router = APIRouter(tags=["health"])


@router.get("/livez")
def livez() -> Response:
    """Answer 200 while the process is alive."""
    return Response("ok\n", media_type="text/plain")


@router.get("/readyz")
def readyz(request: Request) -> Response:
    """Answer 200 while requests are accepted, otherwise 503."""
    is_ready = request.app.state.service.is_ready
    return Response("ok\n" if is_ready else "stopping\n", 200 if is_ready else 503)


@router.get("/info")
def info(request: Request) -> dict[str, Any]:
    """Return the model, its digest, the device and the numerics."""
    service: Service = request.app.state.service
    runnable = service.job.runnable
    device = dict(runnable.describe()) if isinstance(runnable, DescribedRunnable) else {}
    skeleton = service.job.model.categories.skeleton  # for those who draw keypoints
    return {"model": service.job.model.identity(), "skeleton": skeleton, **device}
