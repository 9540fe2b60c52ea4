"""The source for the images of a COCO dataset: its ``.json``, with the ids of its images."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import PureWindowsPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from pipeline.errors import ConfigError
from pipeline.records import Categories
from pipeline.sources.asset import ImageAsset, Skipped, check_options, user_path
from pipeline.sources.decode.options import MAX_PIXELS
from pipeline.sources.paths import Origin, plain_path, real_path
from pipeline.system.os_errors import describe_os_error

_SHOWN = 5  # names in a warning


@dataclass(slots=True)
class CocoImage(ImageAsset):
    """An image of a COCO dataset.

    Attributes:
        image_id: The dataset's id of the image; ``None`` to number it in input order.
    """

    image_id: int | None = None


class CocoImages:
    """Lists the ``images`` of a COCO ``.json``, in its order, with their ids.

    Results keep the ids, so that they can be evaluated against the file's annotations. Every image
    is an asset, even if its file is missing. An image that is listed twice, or whose id belongs to
    another image, is skipped.

    Exports of Label Studio and CVAT are supported: names with backslashes, names that are a URL
    with the path in its query (``/data/local-files/?d=a/b.jpg``), and directories that all names
    begin with but that do not exist below ``root``.

    Args:
        input: The ``.json``.
        root: The directory of the images; by default that of the ``.json``.
        exif: Apply the EXIF orientation.
        max_pixels: Refuse larger images.

    Raises:
        ConfigError: An argument is invalid. Whether the file is one of COCO's is checked by
            ``check()``.
    """

    def __init__(
        self, input: str, root: str = "", exif: bool = True, max_pixels: int = MAX_PIXELS
    ) -> None:
        self.input = check_options(input, max_pixels)
        if not isinstance(root, (str, os.PathLike)):
            raise ConfigError(f"root: expected a directory, got {root!r}")
        self.root = user_path(os.fspath(root)) if root else user_path(self.input).parent
        self.exif = exif
        self.max_pixels = max_pixels
        self._of_ids: list[str] = []  # warnings
        self._of_categories: list[str] = []
        self._assets: list[CocoImage] | None = None
        self._skipped: list[Skipped] = []
        self._names: list[str] = []  # of the categories

    def check(self) -> None:
        """Check that the file lists images.

        Raises:
            ConfigError: It cannot be read, is not a dataset of COCO, or ``root`` is no directory.
        """
        self._list()

    def __iter__(self) -> Iterator[CocoImage]:
        """Read the file and return its images as assets.

        The id of an asset is its path relative to ``root``.

        Raises:
            ConfigError: As ``check()``.
        """
        return iter(self._list())

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._list() if self._assets is None else self._assets)

    def skipped(self) -> list[Skipped]:
        """Return the images that were skipped, and why."""
        if self._assets is None:
            self._list()
        return self._skipped

    def origins(self) -> list[Origin]:
        """Return what distinguishes this input from any other."""
        return [Origin(real_path(user_path(self.input)))]

    def compare_categories(self, categories: Categories) -> None:
        """Warn about categories that only the dataset has, or only the model."""
        if self._assets is None:
            self._list()
        self._of_categories = []
        known = [*categories.thing_names, *categories.stuff_names]
        if not self._names or not known:
            return
        for names, others, who in (
            (self._names, known, "the model does not know the categories"),
            (known, self._names, "the dataset does not have the model's classes"),
        ):
            if missing := [name for name in dict.fromkeys(names) if name not in set(others)]:
                more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
                self._of_categories.append(
                    f"'{self.input}': {who} {', '.join(missing[:_SHOWN])}{more}"
                )

    @property
    def warnings(self) -> list[str]:
        """What is odd about ids and categories."""
        return self._of_ids + self._of_categories

    def _list(self) -> list[CocoImage]:
        data = self._read()
        if not self.root.is_dir():
            raise ConfigError(f"root: no directory '{self.root.absolute()}'")
        self._names = _category_names(data)
        ids = self._image_ids(data["images"])
        root = plain_path(os.path.abspath(self.root))  # noqa: PTH100 - the path may not exist
        assets: dict[str, CocoImage] = {}
        skipped: list[Skipped] = []
        names: dict[int, str] = {}  # by image id
        paths = _paths([image["file_name"] for image in data["images"]], root)
        for path, image_id in zip(paths, ids, strict=True):
            asset_id = _id(path, root)
            if asset_id in assets:
                skipped.append(Skipped(asset_id, "listed twice"))
            elif image_id is not None and names.setdefault(image_id, asset_id) != asset_id:
                reason = f"its image id {image_id} belongs to '{names[image_id]}'"
                skipped.append(Skipped(asset_id, reason, lost=True))
            else:
                asset = CocoImage(asset_id, path, exif=self.exif, max_pixels=self.max_pixels)
                asset.image_id = image_id
                assets[asset_id] = asset
        self._assets, self._skipped = [*assets.values()], skipped
        return self._assets

    def _image_ids(self, images: list[dict[str, Any]]) -> list[int | None]:
        """Return the images' ids; all ``None`` if one is not a whole number."""
        ids: list[int | None] = []
        self._of_ids = []
        for image in images:
            given = image.get("id")
            image_id = _whole(given)
            if image_id is None:
                self._of_ids.append(
                    f"'{self.input}': image ids are numbered from 1 in its order, because the id "
                    f"{given!r:.40} is not a whole number"
                )
                return [None] * len(images)
            ids.append(image_id)
        return ids

    def _read(self) -> dict[str, Any]:
        path = user_path(self.input)
        try:
            data = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as exc:
            reason = describe_os_error(exc) if isinstance(exc, OSError) else f"not JSON ({exc})"
            raise ConfigError(f"input: cannot read '{path.absolute()}': {reason}") from exc
        images = data.get("images") if isinstance(data, dict) else None
        if not isinstance(images, list):
            raise ConfigError(f"input: '{path}' is not a COCO dataset: it has no list 'images'")
        for i, image in enumerate(images):
            name = image.get("file_name") if isinstance(image, dict) else None
            if not isinstance(name, str) or not name.strip():
                raise ConfigError(f"input: '{path}': images[{i}] has no 'file_name'")
        dataset: dict[str, Any] = data
        return dataset


def _category_names(data: dict[str, Any]) -> list[str]:
    categories = data.get("categories")
    found = categories if isinstance(categories, list) else []
    return [str(entry["name"]) for entry in found if isinstance(entry, dict) and "name" in entry]


def _whole(given: Any) -> int | None:
    """Return an image id as a number from 0; some tools write it as text."""
    if isinstance(given, str) and given.isascii() and given.isdecimal():
        given = int(given)
    is_id = isinstance(given, int) and not isinstance(given, bool) and 0 <= given < 1 << 53
    return given if is_id else None


def _paths(names: list[str], root: str) -> list[str]:
    """Return the path of each image: the first candidate that exists, or else the first.

    Directories at the start are removed if all names have them, never those of some names alone:
    ``train/a.jpg`` and ``val/a.jpg`` are different images.
    """
    spelled = [name if os.path.lexists(f"{root}/{name}") else _spelled(name) for name in names]
    parts = [[part for part in name.split("/") if part not in ("", ".")] for name in spelled]
    shared = _n_shared([each[:-1] for each in parts])
    paths = []
    for name, each in zip(spelled, parts, strict=True):
        candidates = [name] if name.startswith("/") else []
        candidates += [f"{root}/{'/'.join(each[i:])}" for i in range(shared + 1)]
        found = (path for path in candidates if os.path.lexists(path))
        paths.append(plain_path(next(found, candidates[0])))
    return paths


def _n_shared(lists: list[list[str]]) -> int:
    """Return how many first elements all lists have in common."""
    low, high = min(lists, default=[]), max(lists, default=[])
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(low, high)))  # noqa: B905


def _spelled(name: str) -> str:
    """Return a name with slashes; of a URL, the path in its query or else its path."""
    if "?" in name or "://" in name:
        url = urlsplit(name)
        return parse_qs(url.query).get("d", [unquote(url.path)])[0]
    return PureWindowsPath(name).as_posix() if "\\" in name else name


def _id(path: str, root: str) -> str:
    """Return the path relative to the root; ``..`` becomes ``__``, so it is safe as a name."""
    inside = path.startswith(f"{root.rstrip('/')}/")
    asset_id = path[len(root.rstrip("/")) + 1 :] if inside else path.lstrip("/")
    parts = ["__" if part == ".." else part for part in asset_id.split("/")]
    return "/".join(parts).replace("\0", "\\0") or "."
