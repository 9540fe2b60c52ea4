"""The interfaces between the parts. Any object that has the listed members fits; no base classes.

Required members are in ``Asset``, ``Source``, ``Model``, ``Runnable``, ``Stage``, ``Sink`` and
``Aggregate``. Every optional capability is a protocol of its own, checked with ``isinstance``, or
with ``supports`` where that would be too slow.
"""

from pipeline.protocols.assets import (
    Asset,
    CategorizedSource,
    CheckableSource,
    Closable,
    ContainedAsset,
    IdentifiedSource,
    NumberedAsset,
    ReadableAsset,
    SkippedEntry,
    SkippingSource,
    Source,
    VersionedAsset,
)
from pipeline.protocols.capabilities import supports
from pipeline.protocols.parts import (
    Aggregate,
    BeginsAssets,
    Checkable,
    Durable,
    Pushdown,
    PushesDown,
    SelectiveSink,
    Sink,
    Stage,
)
from pipeline.protocols.runnables import (
    BatchingRunnable,
    ConcurrentRunnable,
    DescribedRunnable,
    FieldsRunnable,
    Model,
    NumericRunnable,
    PipelinedRunnable,
    PlacedRunnable,
    Prepared,
    Runnable,
    SavableModel,
    Sized,
    ThreadedRunnable,
    Warns,
)

__all__ = [
    "Aggregate",
    "Asset",
    "BatchingRunnable",
    "BeginsAssets",
    "CategorizedSource",
    "Checkable",
    "CheckableSource",
    "Closable",
    "ConcurrentRunnable",
    "ContainedAsset",
    "DescribedRunnable",
    "Durable",
    "FieldsRunnable",
    "IdentifiedSource",
    "Model",
    "NumberedAsset",
    "NumericRunnable",
    "PipelinedRunnable",
    "PlacedRunnable",
    "Prepared",
    "Pushdown",
    "PushesDown",
    "ReadableAsset",
    "Runnable",
    "SavableModel",
    "SelectiveSink",
    "Sink",
    "Sized",
    "SkippedEntry",
    "SkippingSource",
    "Source",
    "Stage",
    "ThreadedRunnable",
    "VersionedAsset",
    "Warns",
    "supports",
]
