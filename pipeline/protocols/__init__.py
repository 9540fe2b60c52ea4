"""The interfaces between the parts. Any object that has the listed members fits; no base classes.

Required members are in ``Asset``, ``Source``, ``Model``, ``Runnable``, ``Stage``, ``Sink`` and
``Aggregate``. Every optional capability is a protocol of its own, checked with ``isinstance``, or
with ``supports`` where that would be too slow.
"""

from __future__ import annotations

from pipeline.protocols.capabilities import Closable, Sized, Warns, supports
from pipeline.protocols.inputs import (
    Asset,
    CheckableSource,
    IdentifiedSource,
    NumberedAsset,
    ReadableAsset,
    SkippedEntry,
    SkippingSource,
    Source,
    VersionedAsset,
)
from pipeline.protocols.models import (
    BatchingRunnable,
    ConcurrentRunnable,
    DescribedRunnable,
    Model,
    PipelinedRunnable,
    PlacedRunnable,
    Prepared,
    Runnable,
    SavableModel,
)
from pipeline.protocols.outputs import (
    Aggregate,
    BeginsAssets,
    Checkable,
    Durable,
    Pushdown,
    PushesDown,
    Sink,
    Stage,
)

__all__ = [
    "Aggregate",
    "Asset",
    "BatchingRunnable",
    "BeginsAssets",
    "Checkable",
    "CheckableSource",
    "Closable",
    "ConcurrentRunnable",
    "DescribedRunnable",
    "Durable",
    "IdentifiedSource",
    "Model",
    "NumberedAsset",
    "PipelinedRunnable",
    "PlacedRunnable",
    "Prepared",
    "Pushdown",
    "PushesDown",
    "ReadableAsset",
    "Runnable",
    "SavableModel",
    "Sink",
    "Sized",
    "SkippedEntry",
    "SkippingSource",
    "Source",
    "Stage",
    "VersionedAsset",
    "Warns",
    "supports",
]
