"""Converts class names from and to Detectron2's ``MetadataCatalog``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.models import architectures
from pipeline.models.categories import from_metadata
from pipeline.records import Categories
from pipeline.store.disk.version import ModelVersion

if TYPE_CHECKING:
    from detectron2.data.catalog import Metadata


def categories_of(cfg: Any, predictor: Any = None) -> tuple[Categories, str | None]:
    """Return the classes of a model with this config, and a warning or ``None``.

    The names are the predictor's, or those in ``MetadataCatalog`` for the config's datasets, if
    their number is the config's; otherwise ``class_0``, ``class_1``, ...
    """
    from detectron2.data import MetadataCatalog

    datasets = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    known = [getattr(predictor, "metadata", None)]
    known += [MetadataCatalog.get(name) for name in datasets if name in MetadataCatalog.list()]
    counts = architectures.class_counts(cfg)
    for metadata in known:
        if metadata is not None:
            found = architectures.relevant_categories(cfg, from_metadata(metadata.as_dict()))
            if (len(found.thing_names), len(found.stuff_names)) == counts:
                return found, None
    things, stuff = counts
    generic = Categories(
        thing_names=tuple(f"class_{i}" for i in range(things)),
        stuff_names=tuple(f"stuff_{i}" for i in range(stuff)),
    )
    return generic, (
        "without class names, so results will have 'class_0', 'class_1', ...; set class_names"
    )


def metadata_of(model: ModelVersion) -> Metadata:
    """Return a stored model's class names as ``DefaultPredictor.metadata``.

    They are not registered in the catalog, which is global and accepts each name only once.
    """
    from detectron2.data.catalog import Metadata

    names = model.categories
    fields: dict[str, Any] = {"name": model.tag}
    for kind, classes, ids in (
        ("thing", names.thing_names, names.thing_ids),
        ("stuff", names.stuff_names, names.stuff_ids),
    ):
        if classes:
            fields[f"{kind}_classes"] = list(classes)
            fields[f"{kind}_dataset_id_to_contiguous_id"] = {id_: i for i, id_ in enumerate(ids)}
    if names.keypoint_names:
        fields["keypoint_names"] = list(names.keypoint_names)
        fields["keypoint_connection_rules"] = [
            (names.keypoint_names[a], names.keypoint_names[b], (255, 255, 255))
            for a, b in names.skeleton
        ]
    return Metadata(**fields)
