"""The HTTP application: routes, behind a guard."""

from __future__ import annotations

from functools import partial

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException

from pipeline.errors import AssetError
from runners.serve.errors import RequestError
from runners.serve.http import health, metrics, pages, predict
from runners.serve.http.guard.access import OPEN
from runners.serve.http.guard.guard import Guard, error_response
from runners.serve.http.kserve import routes as kserve
from runners.serve.http.serving import Forwarding, Serving
from runners.serve.options import ServeOptions


def create_app(service: Serving, options: ServeOptions) -> FastAPI:
    """Return the application of a service.

    Args:
        service: The model, entered; routes find it as ``request.app.state.service``.
        options: The runner's options, ``request.app.state.options``.
    """
    # only describes the token, so that /docs can ask for it; Guard checks it
    bearer = [Depends(HTTPBearer(auto_error=False))] if options.token else []
    app = FastAPI(
        title="d2run", docs_url=None, redoc_url=None, redirect_slashes=False, dependencies=bearer
    )
    app.state.service, app.state.options = service, options
    routers = predict.router, kserve.router, health.router, metrics.router, pages.router
    for router in routers:
        app.include_router(router)
    for kind in (RequestError, AssetError, HTTPException):
        app.add_exception_handler(kind, partial(_failed, service))
    app.add_exception_handler(RequestValidationError, _not_valid)
    if service.forward is not None:
        app.add_middleware(Forwarding, forward=service.forward)
    app.add_middleware(Guard, service=service, options=options, open_paths=OPEN | pages.OPEN)
    app.add_middleware(metrics.CountRequests, metrics=service.metrics)  # also what Guard refuses
    return app


async def _failed(service: Serving, request: Request, exc: Exception) -> Response:
    if isinstance(exc, HTTPException) and exc.status_code in (404, 405):
        what = f"no {request.method} " if exc.status_code == 405 else "no such path: "
        exc.detail = f"{what}{request.url.path}"
    return error_response(exc, service)


async def _not_valid(request: Request, exc: Exception) -> Response:
    """Answer a request whose parameters FastAPI refuses, in one sentence."""
    assert isinstance(exc, RequestValidationError)
    problems = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in exc.errors())
    return error_response(RequestError(422, "; ".join(problems)), request.app.state.service)
