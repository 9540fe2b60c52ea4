"""Combines several inputs into one source."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from pipeline.errors import ConfigError
from pipeline.protocols import (
    Asset,
    CategorizedSource,
    CheckableSource,
    IdentifiedSource,
    NumberedAsset,
    SkippingSource,
    Source,
    Warns,
)
from pipeline.records import Categories
from pipeline.sources.asset import Skipped
from pipeline.sources.paths import Origin, distinct_tails, plain_path, real_path


class Several:
    """Lists the assets of several inputs, one input after the other.

    Ids begin with the name of their input: ``monday/a.jpg`` for ``a.jpg`` in the directory or glob
    ``photos/monday``, ``list.txt/a.jpg`` for an entry of a list. The id of a single file is its
    name. If inputs have the same name, parent directories are added: ``photos/monday``,
    ``backup/monday``. So ids depend on which inputs there are, not on their content. A file that
    is in two inputs is listed once, for the first.

    Args:
        sources: One per input, at least two.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = sources
        self._assets: list[Asset] | None = None
        self._skipped: list[Skipped] = []
        self._own_warnings: list[str] = []

    def check(self) -> None:
        """Check every input.

        Raises:
            ConfigError: Lists the problems of all inputs.
        """
        problems: list[str] = []
        for source in self.sources:
            try:
                if isinstance(source, CheckableSource):
                    source.check()
            except ConfigError as exc:
                problems += exc.problems
        if problems:
            raise ConfigError(*problems)

    def __iter__(self) -> Iterator[Asset]:
        """List all inputs and return their assets."""
        return iter(self._list())

    def __len__(self) -> int:
        """Return how many assets the last iteration found."""
        return len(self._list() if self._assets is None else self._assets)

    def skipped(self) -> list[Skipped]:
        """Return what the last iteration skipped, and why."""
        if self._assets is None:
            self._list()
        return self._skipped

    def origins(self) -> list[Origin]:
        """Return a value that identifies these inputs."""
        return [origin for source in self.sources for origin in origins(source)]

    def compare_categories(self, categories: Categories) -> None:
        """Compare the categories of each input that has some."""
        for source in self.sources:
            if isinstance(source, CategorizedSource):
                source.compare_categories(categories)

    @property
    def warnings(self) -> list[str]:
        """The warnings of all inputs."""
        warning = [source for source in self.sources if isinstance(source, Warns)]
        return [text for source in warning for text in source.warnings] + self._own_warnings

    def _list(self) -> list[Asset]:
        # all at once, because the number of assets depends on which files are listed twice
        assets: list[Asset] = []
        skipped: list[Skipped] = []
        places = [origins(source)[0] for source in self.sources]
        tails = distinct_tails(place.path for place in places)
        first: defaultdict[str, dict[str, int]] = defaultdict(dict)  # input by directory and name
        folders: dict[str, str] = {}  # with links resolved
        here = os.path.join(Path.cwd(), "")  # noqa: PTH118
        for i, (source, place) in enumerate(zip(self.sources, places, strict=True)):
            prefix = tails[place.path]
            for asset in source:
                path = plain_path(os.path.join(here, asset.path))  # noqa: PTH118
                folder, _, name = path.rpartition("/")
                if folder not in folders:
                    folders[folder] = real_path(folder or "/")
                is_input = f"{folders[folder]}/{name}" == place.path
                asset.id = prefix if is_input else f"{prefix}/{asset.id}"
                if first[folders[folder]].setdefault(name, i) != i:
                    skipped.append(Skipped(asset.id, "listed twice"))
                else:
                    assets.append(asset)
            for entry in source.skipped() if isinstance(source, SkippingSource) else ():
                skipped.append(Skipped(f"{prefix}/{entry.path}", entry.reason, entry.lost))
        self._assets, self._skipped = assets, skipped
        self._own_warnings = _renumbered(assets)
        return assets


def _renumbered(assets: Sequence[Asset]) -> list[str]:
    """Remove the inputs' image ids unless every asset has its own; return a warning if so."""
    numbered = [asset for asset in assets if isinstance(asset, NumberedAsset)]
    ids = {asset.image_id for asset in numbered} - {None}
    if not ids or len(ids) == len(assets):
        return []
    for asset in numbered:
        asset.image_id = None
    return ["image ids are numbered from 1 in input order, because those of the inputs overlap"]


@runtime_checkable
class _WithInput(Protocol):
    input: str


def origins(source: Source) -> list[Origin]:
    """Return a value that identifies the input of a source, including custom sources."""
    if isinstance(source, IdentifiedSource):
        return list(source.origins())
    name = source.input if isinstance(source, _WithInput) else type(source).__name__
    return [Origin(real_path(str(name)))]
