"""Assets of every source that is not live, sent to another process: same content, same pixels."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import fsspec
import pytest
from batches import run, write_images
from command_line import ROOT
from packing import pack
from videos import write_video
from webserver import folder_served

from pipeline.errors import DecodeError
from pipeline.protocols import Asset
from pipeline.sources import Several
from pipeline.sources.auto import auto
from pipeline.sources.recorded import Recorded

NAMES = ("1.png", "2.png", "sub/3.jpg")
ELSEWHERE = """
import json, pickle, sys
from pathlib import Path
from test_pickle import described
assets = pickle.loads(Path(sys.argv[1]).read_bytes())
Path(sys.argv[2]).write_text(json.dumps(described(assets)))
"""


def described(assets: Iterable[Any]) -> list[list[Any]]:
    """Return what is known of each asset, once it is read."""
    found = []
    for asset in assets:
        pixels = [sha256(frame.image.tobytes()).hexdigest() for frame in asset.frames()]
        known = [getattr(asset, name, None) for name in ("size_bytes", "image_id", "columns")]
        kind = type(asset).__name__
        found.append([kind, asset.id, str(asset.path), asset.fingerprint(), pixels, known])
    return found


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pickle") / "in"
    write_images(folder, *NAMES)
    return folder


@pytest.fixture(scope="module")
def address(images: Path) -> Iterator[str]:
    with folder_served(images) as url:
        yield url


def sources(images: Path, address: str) -> Iterator[Any]:
    """Yield a source of each kind."""
    folder = images.parent
    yield auto(str(images))
    yield auto(str(images), pages="all")
    (folder / "list.csv").write_text("path,site,n\nin/2.png,Graz,7\nin/sub/3.jpg,Wien,8\n")
    yield auto(str(folder / "list.csv"))
    coco = [{"id": 40 + i, "file_name": f"in/{name}"} for i, name in enumerate(NAMES)]
    (folder / "coco.json").write_text(json.dumps({"images": coco}))
    yield auto(str(folder / "coco.json"))
    members = [(name, (images / name).read_bytes()) for name in NAMES]
    for kind in ("zip", "tar", "tar.gz"):
        yield auto(str(pack(folder / f"a.{kind}", members)))
    yield auto(address)
    yield auto(str(write_video(folder / "v.mp4", n=3)))
    yield Several([auto(str(folder / "a.zip")), auto(str(folder / "a.tar.gz")), auto(address)])
    run(f"input={folder}/a.zip", "device=cpu", f"output={folder}/run")
    yield Recorded(str(folder / "run"))
    yield Recorded(str(folder / "run"), pixels=True)


def test_every_kind_of_asset_in_another_process(images: Path, address: str) -> None:
    assets: list[Asset] = [asset for each in sources(images, address) for asset in each]
    expected = described(assets)
    kinds = {"ImageAsset", "FramesAsset", "CocoImage", "MemberAsset", "PackedAsset", "RemoteAsset"}
    assert {line[0] for line in expected} == kinds | {"RecordedAsset", "RecordedImage"}
    sent, answer = images.parent / "sent", images.parent / "answer"
    sent.write_bytes(pickle.dumps([pickle.loads(pickle.dumps(asset)) for asset in assets]))
    path = f"{ROOT}:{ROOT}/tests/support:{Path(__file__).parent}"
    subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(sent), str(answer)],
        env={"PATH": "", "PYTHONPATH": path},
        check=True,
    )
    assert json.loads(answer.read_text()) == expected


@pytest.mark.parametrize("kind", ["tar.gz", "http"])
def test_a_chunk_is_small_and_shares_what_it_opens(images: Path, address: str, kind: str) -> None:
    folder = images.parent
    given = address
    if kind == "tar.gz":
        members = [(f"{i:03}.png", (images / "1.png").read_bytes()) for i in range(64)]
        given = str(pack(folder / "many.tar.gz", members))
    assets = list(auto(given))
    described(assets)  # what they have opened by now stays here
    text = pickle.dumps(assets)
    assert len(text) < 1000 + 300 * len(assets)
    first, again = pickle.loads(text), pickle.loads(text)
    name = "blocks" if kind == "tar.gz" else "fetcher"
    assert len({id(getattr(asset, name)) for asset in (*first, *again)}) == 1


def test_an_archive_that_changed_meanwhile(images: Path) -> None:
    archive = pack(images.parent / "changes.tar.gz", [("a.png", (images / "1.png").read_bytes())])
    text = pickle.dumps(list(auto(str(archive))))
    pack(archive, [("other.png", (images / "2.png").read_bytes()), ("b.txt", bytes(99))])
    (asset,) = pickle.loads(text)
    with pytest.raises(DecodeError, match="the archive changed after it was listed"):
        list(asset.frames())


def test_memory_of_this_process_is_refused() -> None:
    system = fsspec.filesystem("memory")
    system.pipe("/here/a.png", b"x")
    assets = list(auto("memory://here/"))
    system.store.clear()
    with pytest.raises(TypeError, match="memory:// exists in one process only"):
        pickle.dumps(assets)
