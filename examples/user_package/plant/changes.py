"""A stage with state."""

from __future__ import annotations

from pipeline.protocols import Asset
from pipeline.records import Result


class OnChange:
    """Keeps the frames on which the number of instances differs from the frame before.

    It has ``begin``, so it is called before the first frame of each asset: one video does not
    continue the count of another.
    """

    def begin(self, asset: Asset) -> None:
        self.count: int | None = None

    def __call__(self, result: Result) -> Result | None:
        before, self.count = self.count, len(result.predictions)
        return None if self.count == before else result
