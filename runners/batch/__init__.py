"""``runner=batch``: processes every input once."""

from runners.batch.runner import Batch

__all__ = ["Batch"]
