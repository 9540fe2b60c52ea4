"""Describes errors of the operating system in words."""

from __future__ import annotations


def describe_os_error(exc: OSError | ValueError) -> str:
    """Return what an error of the file system means, in lower case and without the path."""
    if isinstance(exc, PermissionError):
        return "no permission"
    if isinstance(exc, FileNotFoundError):
        return "no such file"
    text = exc.strerror if isinstance(exc, OSError) else None
    return (text or str(exc) or type(exc).__name__).lower()
