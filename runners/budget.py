"""The option ``max_failures``: how many inputs may fail before a run stops."""

from __future__ import annotations

from pipeline.errors import ConfigError


def allowed(max_failures: int | float | str | None, total: int) -> int | None:
    """Return how many of ``total`` inputs may fail; ``None`` if there is no limit.

    Args:
        max_failures: A number; a share, as a text with ``%`` or a fraction below 1; ``None``.
        total: Number of inputs.

    Raises:
        ConfigError: ``max_failures`` is none of these.
    """
    if max_failures is None:
        return None
    text = str(max_failures).strip()
    try:
        number = float(text.removesuffix("%"))
        share = number / 100 if text.endswith("%") else number
        if share == int(share) and not text.endswith("%") and share >= 0:
            return int(share)
        if not 0 <= share <= 1:
            raise ValueError(text)
    except (ValueError, OverflowError) as exc:
        raise ConfigError(
            f"max_failures: expected a number of inputs or a share such as 5%, got {max_failures!r}"
        ) from exc
    return int(share * total)
