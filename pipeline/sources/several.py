"""Several inputs as one source."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.protocols import Asset
from pipeline.sources.asset import Skipped
from pipeline.sources.paths import Origin, distinct_tails, plain_path, real_path


class Several:
    """Several inputs, one after the other.

    Ids begin with the name of their input: ``monday/a.jpg`` for ``a.jpg`` in the folder or glob
    ``photos/monday``, ``list.txt/a.jpg`` for an entry of a list; the id of a single file is its
    name. Where inputs have the same name, their parent folders come first: ``photos/monday``,
    ``backup/monday``. So ids depend on which inputs there are, not on what is in them. A file that
    two inputs hold is taken once, from the first.

    Args:
        sources: One per input, at least two.
    """

    def __init__(self, sources: Sequence[Any]) -> None:
        self.sources = sources
        self._assets: list[Asset] | None = None
        self._skipped: list[Skipped] = []

    def check(self) -> None:
        """Check every input.

        Raises:
            ConfigError: Names all inputs that do not fit.
        """
        problems: list[str] = []
        for source in self.sources:
            try:
                getattr(source, "check", lambda: None)()
            except ConfigError as exc:
                problems += exc.problems
        if problems:
            raise ConfigError(*problems)

    def __iter__(self) -> Iterator[Asset]:
        """Look through all inputs again, and return their assets."""
        return iter(self._look())

    def __len__(self) -> int:
        """Return how many assets the last look found."""
        return len(self._look() if self._assets is None else self._assets)

    def skipped(self) -> list[Skipped]:
        """Return what the last look skipped, and why."""
        if self._assets is None:
            self._look()
        return self._skipped

    def origins(self) -> list[Origin]:
        """Return what tells these inputs from any others."""
        return [origin for source in self.sources for origin in origins(source)]

    def _look(self) -> list[Asset]:
        # All at once: how many there are is known only when the files taken twice are.
        assets: list[Asset] = []
        skipped: list[Skipped] = []
        places = [origins(source)[0] for source in self.sources]
        tails = distinct_tails(place.path for place in places)
        taken: defaultdict[str, dict[str, int]] = defaultdict(dict)  # by folder and name: of which
        folders: dict[str, str] = {}  # links resolved
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
                if taken[folders[folder]].setdefault(name, i) != i:
                    skipped.append(Skipped(asset.id, "listed twice"))
                else:
                    assets.append(asset)
            for entry in getattr(source, "skipped", list)():
                skipped.append(replace(entry, path=f"{prefix}/{entry.path}"))
        self._assets, self._skipped = assets, skipped
        return assets


def origins(source: Any) -> list[Origin]:
    """Return what tells the input of any source from others; a custom one may not say."""
    if hasattr(source, "origins"):
        return list(source.origins())
    return [Origin(real_path(str(getattr(source, "input", type(source).__name__))))]
