"""What a browser shows: the page at ``/``, and the API reference at ``/docs``.

All files are local, and the Content-Security-Policy allows no other host, no inline script and no
inline handler. The pages hold nothing secret; with ``runner.token``, they ask for it.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

from pipeline.sinks.report.html import PAGE as SHARED

_HERE = Path(__file__).parent / "page"
_SWAGGER = "fastapi_swagger"  # the package that holds the files of Swagger UI
_STRICT = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data:",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
_SWAGGERS = _STRICT | {"style-src": "'self' 'unsafe-inline'"}  # its elements have style attributes

router = APIRouter(include_in_schema=False)
# Paths that need no token: the API reference describes the code, not the model.
OPEN = {"/openapi.json"}


def _add(url: str, file: Path, policy: dict[str, str] = _STRICT) -> None:
    headers = {
        "Content-Security-Policy": "; ".join(f"{key} {value}" for key, value in policy.items()),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",  # after an update, the page must not be a mix of both versions
    }
    media_type = {".css": "text/css", ".html": "text/html", ".js": "text/javascript"}[file.suffix]

    OPEN.add(url)

    @router.get(url)
    @router.head(url)
    async def get() -> FileResponse:
        return FileResponse(file, headers=headers, media_type=media_type)


def _swagger_ui() -> Path:
    spec = find_spec(_SWAGGER)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"no module named '{_SWAGGER}'", name=_SWAGGER)
    return Path(spec.submodule_search_locations[0]) / "resources"


_add("/", _HERE / "index.html")
for _name in ("style.css", "script.js"):
    _add(f"/page/{_name}", _HERE / _name)
for _name in ("base.css", "drawing.js"):  # shared with the page of a run
    _add(f"/page/{_name}", SHARED / _name)
_add("/docs", _HERE / "docs.html", _SWAGGERS)
_add("/page/docs.js", _HERE / "docs.js")
for _name in ("swagger-ui.css", "swagger-ui-bundle.js"):
    _add(f"/page/{_name}", _swagger_ui() / _name)
