"""Translates the exceptions of parts into d2run's errors."""

from __future__ import annotations

import errno
from traceback import extract_tb, format_exception

from pipeline.errors import AssetError, OutputError, PipelineError, SinkError
from pipeline.protocols import Asset

# every further write would fail too, so the run ends instead of failing every input
_OUTPUT_IS_GONE = {errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EIO}
_OUTPUT_IS_GONE |= {errno.EFBIG, errno.EMFILE, errno.ENFILE}


def failed(kind: type[AssetError], exc: Exception, asset: Asset, step: str) -> AssetError:
    """Translate any exception of a part into an error of the asset.

    The traceback becomes text, because it would keep the image in memory.
    """
    trace = _detach_trace(exc)
    if isinstance(exc, AssetError):
        exc.asset_id = exc.asset_id or asset.id
        exc.step = exc.step or step
        exc.trace = exc.trace or trace
        return exc
    text = str(exc) if isinstance(exc, PipelineError) else f"{type(exc).__name__}: {exc}"
    text = text.removesuffix(": ")  # an exception without a message
    error = kind(text, asset_id=asset.id, step=step)
    error.__cause__ = exc
    error.trace = trace
    return error


def _detach_trace(exc: BaseException) -> str:
    """Return the traceback as text, and remove it from the exception and its causes."""
    trace = "".join(format_exception(exc))
    links: list[BaseException | None] = [exc]
    seen: set[int] = set()
    while links:
        if (link := links.pop()) is not None and id(link) not in seen:
            seen.add(id(link))
            link.__traceback__ = None
            links += [link.__cause__, link.__context__]
    return trace


def sink_failed(exc: Exception, asset: Asset, name: str) -> PipelineError:
    """Translate what a sink raised: OutputError if no other input could be written either."""
    if isinstance(exc, OutputError):
        return exc
    if isinstance(exc, OSError) and exc.errno in _OUTPUT_IS_GONE:
        where = f" ({exc.filename})" if exc.filename else ""
        error = OutputError(f"cannot write the output: {exc.strerror}{where}, in sink '{name}'")
        error.__cause__ = exc
        return error
    return failed(SinkError, exc, asset, name)


def described(exc: Exception) -> str:
    """Return an error's class and text on one line; for a bare assertion, the line of code."""
    text = " ".join(str(exc).split())
    if not text and (frames := extract_tb(exc.__traceback__)):
        text = str(frames[-1].line)
    return f"{type(exc).__name__}: {text}"[:400]
