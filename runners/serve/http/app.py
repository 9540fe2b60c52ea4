"""The HTTP application: routes, limits and errors."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from pipeline.errors import AssetError
from runners.serve.errors import RequestError
from runners.serve.http import health, pages, predict
from runners.serve.options import ServeOptions
from runners.serve.service import Service


def create_app(service: Service, options: ServeOptions) -> FastAPI:
    """Return the application of a service.

    Args:
        service: The model, entered; routes find it as ``request.app.state.service``.
        options: The runner's options, ``request.app.state.options``.
    """
    app = FastAPI(title="d2run", docs_url=None, redoc_url=None)
    app.state.service, app.state.options = service, options
    for router in (predict.router, health.router, pages.router):
        app.include_router(router)
    app.add_exception_handler(RequestError, _refused)
    app.add_exception_handler(AssetError, _failed)
    return app


def _refused(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestError)
    headers = {} if exc.retry_after_s is None else {"Retry-After": str(exc.retry_after_s)}
    return JSONResponse({"error": str(exc)}, exc.status, headers)


def _failed(request: Request, exc: Exception) -> Response:
    # the image is what failed, whatever the step: the client can only send another one
    assert isinstance(exc, AssetError)
    return JSONResponse({"error": str(exc), "step": exc.step}, 422)
