"""An aggregate that writes a dataset for FiftyOne."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, Literal

from pipeline.records import Categories
from pipeline.sinks.annotations.instances import check_has_instances
from pipeline.sinks.annotations.text import NamedLine, printable, read_named
from pipeline.sinks.coco import write_coco
from pipeline.system.files import asset_id_of, output_name, replaced
from pipeline.system.output_folder import OutputFolder
from pipeline.validation import check, check_number

_log = logging.getLogger(__name__)


class Fiftyone:
    """Writes ``labels.json`` and ``data/``, the layout of FiftyOne's ``COCODetectionDataset``.

    ``labels.json`` is as ``coco.json``. ``data/`` has a symbolic link to each image that is a file
    in ``images``; the others are counted in the log. FiftyOne cuts a mask to its box.

    The lines are streamed, so memory does not grow with their number. Equal lines give
    byte-identical files.

    Args:
        directory: Directory of the dataset, in the run directory.
        min_score: Write only instances with at least this score, 0 to 1.
        images: Directory of the images, or the only image; ``None`` for no links.

    Raises:
        ConfigError: An option has an invalid value.
    """

    is_aggregate: Literal[True] = True
    needs_pixels = False

    def __init__(
        self, directory: str | Path, min_score: float = 0.0, images: str | list[str] | None = None
    ) -> None:
        check_number("min_score", min_score, 0, 1)
        check(
            "images",
            images,
            images is None or isinstance(images, (str, list)),
            "a directory or null",
        )
        self.directory = Path(directory)
        self.min_score = min_score
        self.images = images
        name = self.directory.name
        self.outputs: tuple[str, ...] = (f"{name}/labels.json", f"{name}/data/")

    def check(self, categories: Categories) -> None:
        """Raise ConfigError for a model without instances."""
        check_has_instances(categories)

    def build(self, journal: Path, categories: Categories) -> None:
        """Read ``journal``, replace ``labels.json`` atomically, and link the images.

        Raises:
            OutputError: A line is incomplete.
        """
        self._link(journal)
        with replaced(self.directory / "labels.json") as dataset:
            write_coco(
                lambda: map(_named, read_named(journal, self.min_score)),
                categories,
                dataset,
            )

    def _link(self, journal: Path) -> None:
        root = self._root()
        if root is None:
            return
        folder, missing = OutputFolder(self.directory.parent), 0
        data = f"{self.directory.name}/data"
        for line in read_named(journal):
            file, name = root / asset_id_of(line.record), f"{data}/{_name(line)}"
            if file.is_file() and not line.is_frame:
                start = os.path.realpath((self.directory.parent / name).parent)
                folder.link(name, os.path.relpath(file.absolute(), start))
            else:
                missing += 1
        folder.sync()
        if missing:
            _log.warning("%s has no image for %d frames, which are no files", data, missing)

    def _root(self) -> Path | None:
        """Return the directory that asset ids are relative to; ``None`` if it is not known."""
        if not isinstance(self.images, str):
            return None
        path = Path(self.images).expanduser()
        return path if path.is_dir() else path.parent if path.is_file() else None


def _name(line: NamedLine) -> str:
    # FiftyOne takes a backslash for a separator of directories
    return output_name(printable(line.name).replace("\\", "%"), "")


def _named(line: NamedLine) -> dict[str, Any]:
    return line.record | {"asset": _name(line)}
