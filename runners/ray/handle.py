"""What the executor knows of a worker."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from runners.ray.chunks import Chunk
from runners.ray.pool import Call

Kind = Literal["start", "process", "progress"]


@dataclass(slots=True)
class Handle:
    """A worker.

    Attributes:
        number: Its number in the pool.
        is_ready: Whether it can get work.
        is_dismissed: Whether it never will, because it computes with other settings.
        start: The call that starts it, if it is not answered yet.
        start_at_s: When to start it, not before.
        queue: The chunks that it has, in order, each with its call.
        ping: The call that asks for its progress, if it is not answered yet.
        pinged_s: When it was last asked for its progress.
        steps: Number of steps that it had done then.
        moved_s: When it was last known to have done something.
    """

    number: int
    is_ready: bool = False
    is_dismissed: bool = False
    start: Call | None = None
    start_at_s: float = 0.0
    queue: deque[tuple[Call, Chunk]] = field(default_factory=deque)
    ping: Call | None = None
    pinged_s: float = 0.0
    steps: int = -1
    moved_s: float = 0.0
