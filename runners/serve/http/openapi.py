"""Parts of the OpenAPI document that several routes share."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

BINARY = {"type": "string", "format": "binary"}


class ErrorBody(BaseModel):
    """Why a request was refused or failed.

    Attributes:
        error: One sentence.
        asset: The name of the image that failed; absent for refused requests.
        step: The step that failed on it, such as ``decode``; absent for refused requests.
    """

    error: str
    asset: str | None = None
    step: str | None = None


_REASONS = {
    400: "The request is malformed.",
    401: "The token is missing or wrong.",
    404: "There is no such model or version.",
    413: "The request is larger than `runner.max_body_mb`.",
    415: "The content type or encoding is not supported.",
    422: "An image cannot be decoded or processed, or the form or `format` is not valid.",
    429: "Too many images are in progress; `Retry-After` says when to try again.",
    503: "The service is stopping.",
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the ``responses`` of a route for its errors."""
    return {
        status: {"model": ErrorBody, "description": _REASONS[status]}
        for status in sorted({401, 413, 429, 503, *statuses})
    }


def images_body(several: bool) -> dict[str, Any]:
    """Return the ``openapi_extra`` of a route whose body is an image, or a form with images."""
    field = {"type": "array", "items": BINARY} if several else BINARY
    form = {"type": "object", "required": ["image"], "properties": {"image": field}}
    return {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": form},
                "application/octet-stream": {"schema": BINARY},
                "image/*": {"schema": BINARY},
            },
        }
    }


def inlined(model: type[BaseModel]) -> dict[str, Any]:
    """Return a model's JSON schema without references, for where FastAPI adds no components."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def resolved(node: Any) -> Any:
        if isinstance(node, list):
            return [resolved(each) for each in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return resolved(definitions[node["$ref"].rpartition("/")[2]])
        return {key: resolved(value) for key, value in node.items()}

    plain: dict[str, Any] = resolved(schema)
    return plain
