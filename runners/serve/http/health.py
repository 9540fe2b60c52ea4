"""Routes for monitors: is the process alive, does it accept requests, what does it run."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from pipeline.protocols import DescribedRunnable
from runners.serve.service import Service

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
    service: Service = request.app.state.service
    return Response(f"{service.state}\n", 200 if service.is_ready else 503, media_type="text/plain")


@router.get("/info")
async def info(request: Request) -> dict[str, Any]:
    """Return the model, its digest, the device and the numerics."""
    service: Service = request.app.state.service
    runnable = service.job.runnable
    device = dict(runnable.describe()) if isinstance(runnable, DescribedRunnable) else {}
    return {"model": service.job.model.identity(), **device}
