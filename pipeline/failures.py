"""Where foreign exceptions become errors of one's own: the only place that does it for assets."""

from __future__ import annotations

import errno
from traceback import extract_tb, format_exception

from pipeline.errors import AssetError, OutputError, PipelineError, SinkError
from pipeline.protocols import Asset

# what makes every further write fail too, so that going on would only fail every input
_OUTPUT_IS_GONE = {errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EIO}
_OUTPUT_IS_GONE |= {errno.EFBIG, errno.EMFILE, errno.ENFILE}


def failed(kind: type[AssetError], exc: Exception, asset: Asset, step: str) -> AssetError:
    """Translate whatever a part raised into the asset's own error.

    Its traceback becomes text, or the error would keep the picture in memory.
    """
    trace = _let_go(exc)
    if isinstance(exc, AssetError):
        exc.asset_id = exc.asset_id or asset.id
        exc.step = exc.step or step
        exc.trace = exc.trace or trace
        return exc
    text = str(exc) if isinstance(exc, PipelineError) else f"{type(exc).__name__}: {exc}"
    text = text.removesuffix(": ")  # an assertion without words
    error = kind(text, asset_id=asset.id, step=step)
    error.__cause__ = exc
    error.trace = trace
    return error


def _let_go(exc: BaseException) -> str:
    """Return the traceback as text, and forget it."""
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
    """Translate what a sink raised: OutputError where no other input could be written either."""
    if isinstance(exc, OutputError):
        return exc
    if isinstance(exc, OSError) and exc.errno in _OUTPUT_IS_GONE:
        where = f" ({exc.filename})" if exc.filename else ""
        error = OutputError(f"cannot write the output: {exc.strerror}{where}, at sink '{name}'")
        error.__cause__ = exc
        return error
    return failed(SinkError, exc, asset, name)


def described(exc: Exception) -> str:
    """Return an error's kind and text on one line; of a bare assertion the line of code."""
    text = " ".join(str(exc).split())
    if not text and (frames := extract_tb(exc.__traceback__)):
        text = str(frames[-1].line)
    return f"{type(exc).__name__}: {text}"[:400]
