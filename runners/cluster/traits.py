"""What is known of a runnable once it is entered, which other processes need as well."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pipeline.protocols import (
    BatchingRunnable,
    DescribedRunnable,
    FieldsRunnable,
    LimitedRunnable,
    NumericRunnable,
    PlacedRunnable,
    Pushdown,
    Runnable,
    ThreadedRunnable,
    Warns,
)


@dataclass(frozen=True, slots=True)
class Traits:
    """The optional attributes of a runnable; ``None`` or empty where it has none."""

    device: str | None = None
    threads: int | None = None
    batch_size: int | str | None = None
    numerics: Any = None
    fields: tuple[str, ...] = ()
    limits: Pushdown = field(default_factory=Pushdown)
    warnings: tuple[str, ...] = ()
    description: Any = None

    @classmethod
    def of(cls, runnable: Runnable, *, entered: bool) -> Traits:
        """Return those of a runnable."""
        is_described = entered and isinstance(runnable, DescribedRunnable)
        return cls(
            device=runnable.device if isinstance(runnable, PlacedRunnable) else None,
            threads=runnable.threads if isinstance(runnable, ThreadedRunnable) else None,
            batch_size=runnable.batch_size if isinstance(runnable, BatchingRunnable) else None,
            numerics=runnable.numerics if isinstance(runnable, NumericRunnable) else None,
            fields=runnable.fields if isinstance(runnable, FieldsRunnable) else (),
            limits=runnable.limits if isinstance(runnable, LimitedRunnable) else Pushdown(),
            warnings=tuple(runnable.warnings) if isinstance(runnable, Warns) else (),
            description=dict(runnable.describe()) if is_described else None,  # type: ignore[attr-defined]
        )
