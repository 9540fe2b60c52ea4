"""Secrets, kept out of what is written: of an address its user and query, of a key its value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_SECRET = r"(?:token|secret|password|passwd|credentials?|(?:api|access|private|secret)_?key)"
_SECRET_KEY = re.compile(rf"(?:^|[_.]){_SECRET}$", re.IGNORECASE)
_SECRET_VALUE = re.compile(rf"({_SECRET}[\"']?\s*[=:]\s*)[^\n]*", re.IGNORECASE)
_URL_USER = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/\s@]+@", re.IGNORECASE)
_URL_QUERY = re.compile(r"(\bhttps?://[^\s?'\"]+\?)[^\s'\"]+", re.IGNORECASE)


def redacted(value: Any, key: str = "") -> Any:
    """Return a copy without secrets: values of keys that name one, user and query of URLs."""
    if value is not None and _SECRET_KEY.search(key):
        return "***"
    if isinstance(value, Mapping):
        return {str(name): redacted(item, str(name)) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redacted(item) for item in value]
    return redacted_text(value) if isinstance(value, str) else value


def redacted_text(text: str) -> str:
    """Return text without user and query of URLs; after a key that names a secret, no more."""
    text = _URL_USER.sub(r"\1***@", text)
    text = _URL_QUERY.sub(r"\1***", text)
    return _SECRET_VALUE.sub(r"\1***", text)
