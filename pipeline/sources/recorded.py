"""The source of ``runnable=replay``: the inputs of a finished run, with their predictions."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.protocols import Asset, CheckableSource, LiveSource, Source
from pipeline.recorded import RecordedAsset, RecordedImage, RecordedInput, RecordedRun
from pipeline.recorded.run import INPUTS, SKIPPED
from pipeline.sources.asset import ImageAsset, Skipped, user_path
from pipeline.sources.auto import auto
from pipeline.sources.paths import Origin
from pipeline.sources.several import Several
from pipeline.system.files import asset_id_of
from pipeline.validation import check

TARGET = "pipeline.sources.recorded.Recorded"
_ADDED = re.compile(r".*~[0-9a-f]{8}", re.DOTALL)


class Recorded:
    """Lists the inputs of a finished run, in its order, under their ids.

    Failed inputs fail again, with the recorded message. Without pixels, no image is read, so the
    images may be gone.

    Args:
        run: The run directory.
        root: Directory of the images, whose paths in it are the asset ids; by default, images are
            read from where the run found them.
        pixels: Whether to read the images; ``None`` for no. A job sets it to whether a stage or
            sink needs them.

    Raises:
        ConfigError: There is no finished run, or ``root`` is not a directory.
    """

    def __init__(self, run: str, root: str | None = None, pixels: bool | None = None) -> None:
        self.run = RecordedRun(run)
        self._check_run()
        self.root = None if root is None else user_path(root)
        check("root", root, self.root is None or self.root.is_dir(), "an existing directory")
        self.pixels = bool(pixels)
        self._count: int | None = None
        self._skipped: list[Skipped] = []

    def _check_run(self) -> None:
        self.run.check_finished()

    def check(self) -> None:
        """Check that the images can be listed, if they are needed.

        Raises:
            ConfigError: They cannot; says why.
        """
        if not self.pixels or self.root is not None:
            return
        for source in self._sources():
            try:
                if isinstance(source, CheckableSource):
                    source.check()
            except ConfigError as exc:
                raise ConfigError(
                    f"root: the images of the run are not where they were: {exc}. Set source.root "
                    "to their directory"
                ) from exc

    def __iter__(self) -> Iterator[RecordedAsset]:
        """List the inputs and return their assets.

        Raises:
            OutputError: The run is damaged.
        """
        self._scan()
        return self._assets()

    def __len__(self) -> int:
        """Return the number of inputs."""
        if self._count is None:
            self._scan()
        return self._count or 0

    def skipped(self) -> list[Skipped]:
        """Return what the run skipped, and inputs of which a stage dropped every frame."""
        if self._count is None:
            self._scan()
        return self._skipped

    def origins(self) -> list[Origin]:
        """Return what distinguishes the input of the run from any other."""
        return [Origin(**origin) for each in self.run.origins for origin in each]

    def places(self) -> list[str]:
        """Return the directories and files that may be read."""
        images = [origin.path for origin in self.origins()] if self.root is None else [self.root]
        return [str(self.run.path), *map(str, images)]

    def originals(self) -> Iterator[Asset]:
        """Yield the files of the inputs under their ids in the run, except those that are missing.

        Raises:
            ConfigError: They cannot be listed; says why.
        """
        images = self._images()
        for line in self.run.lines(INPUTS):
            asset_id = asset_id_of(line)
            asset = _find(images, asset_id)
            if asset is not None:
                asset.id = asset_id
                yield asset

    def _scan(self) -> None:
        # a run that watches has no list of what it skipped
        lines = self.run.lines(SKIPPED) if self.run.has(SKIPPED) else ()
        skipped = [Skipped(asset_id_of(line, "path"), line["reason"]) for line in lines]
        count = 0
        for line in self.run.lines(INPUTS):
            if line["outcome"] == "done" and line["frames"] == line["dropped"]:
                skipped.append(Skipped(asset_id_of(line), "a stage of the run dropped it"))
            else:
                count += 1
        self._count, self._skipped = count, skipped

    def _assets(self) -> Iterator[RecordedAsset]:
        images = self._images() if self.pixels and self.root is None else []
        for each in self.run.inputs():
            if each.failure is None and not each.n_lines:
                continue
            if self.pixels and each.failure is None:
                image = self._moved(each) if self.root is not None else _find(images, each.id)
                yield RecordedImage(each.id, each, self.run, image)
            else:
                yield RecordedAsset(each.id, each, self.run)

    def _moved(self, each: RecordedInput) -> Asset | None:
        options = self._options(ImageAsset)
        path = os.path.join(str(self.root), each.id)  # noqa: PTH118
        if each.is_still:
            return ImageAsset(each.id, path, **options)
        return next(iter(auto(path, **self._options(auto))), None)

    def _images(self) -> list[dict[str, Asset]]:
        """Return the assets of each input of the run by id."""
        return [{asset.id: asset for asset in source} for source in self._sources()]

    def _sources(self) -> Iterator[Source]:
        if self.run.source.get("_target_") == TARGET:  # the run replayed another one
            yield Recorded(self.run.source["run"], self.run.source.get("root"), pixels=True)
            return
        for origins in self.run.origins:
            sources = [self._source(Origin(**origin)) for origin in origins]
            yield sources[0] if len(sources) == 1 else Several(sources)

    def _source(self, origin: Origin) -> Source:
        """Return the source that listed an input of the run."""
        from pipeline.sources import PARTS

        target = str(self.run.source.get("_target_"))
        name = target.removeprefix("pipeline.sources.")
        if name not in PARTS or origin.path == "-":
            what = "standard input" if name in PARTS else f"a custom source, {target}"
            raise ConfigError(
                f"root: the run in '{self.run.path}' read {what}; set source.root to the "
                "directory of its images"
            )
        module, _, attribute = name.rpartition(".")
        part = getattr(import_module(f"pipeline.sources.{module}"), attribute)
        where = os.path.join(origin.path, origin.pattern) if origin.pattern else origin.path  # noqa: PTH118
        source: Source = part(**self._options(part) | {"input": where})
        if isinstance(source, LiveSource):
            raise ConfigError(
                f"pixels: the run in '{self.run.path}' read a stream, whose frames are gone; "
                "remove the stages and sinks that need pixels"
            )
        return source

    def _options(self, part: Any) -> dict[str, Any]:
        """Return the recorded options of the source that a part accepts."""
        accepted = inspect.signature(part).parameters
        return {k: v for k, v in self.run.source.items() if k in accepted and k != "input"}


class RecordedSoFar(Recorded):
    """The same of a run that may continue, but whose files are complete and in order."""

    def _check_run(self) -> None:
        pass


def run_images(directory: Path, root: str | None = None) -> Iterator[Asset]:
    """Yield the inputs of a run, with their pixels, in its order.

    Args:
        directory: The run directory.
        root: Directory of the images, if they were moved; by default, that of ``sink.report``.

    Raises:
        ConfigError: The images cannot be listed; says why.
    """
    if root is None:
        sinks = RecordedRun(directory).record.get("config", {}).get("sink") or {}
        root = (sinks.get("report") or {}).get("root")
    source = RecordedSoFar(str(directory), root, pixels=True)
    source.check()
    yield from source


def _find(images: list[dict[str, Asset]], asset_id: str) -> Asset | None:
    """Return the asset of an id; one of an added input may have got a prefix (``Share``)."""
    for assets in images:
        if asset_id in assets:
            return assets[asset_id]
    prefix, _, own_id = asset_id.partition("/")
    added = images[1:] if _ADDED.fullmatch(prefix) else []
    return next((assets[own_id] for assets in added if own_id in assets), None)
