"""A sink that writes one growing file per asset."""

from __future__ import annotations

from pathlib import Path

from pipeline.protocols import Asset
from pipeline.records import Result
from pipeline.system.files import output_name
from pipeline.system.output_folder import OutputFolder


class Tables:
    """Writes ``tables/<asset>.csv`` in the run directory: a row per frame."""

    outputs = ("tables/",)  # cleared on restart, protected on resume

    def __init__(self, output: str) -> None:
        self.folder = OutputFolder(Path(output))

    def begin(self, asset: Asset) -> None:
        self.file = self.folder.open(_name(asset))
        self.file.write(b"frame,seconds,instances\n")

    def write(self, result: Result) -> None:
        frame = result.frame
        seconds = "" if frame.time_s is None else f"{frame.time_s:.3f}"
        self.file.write(f"{frame.index},{seconds},{len(result.predictions)}\n".encode())

    def flush(self, asset: Asset) -> None:
        self.folder.commit(_name(asset))

    def discard(self, asset: Asset) -> None:
        self.folder.remove(_name(asset))

    def sync(self) -> None:
        self.folder.sync()

    def __enter__(self) -> Tables:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass


def _name(asset: Asset) -> str:
    return f"tables/{output_name(asset.id, '.csv')}"
