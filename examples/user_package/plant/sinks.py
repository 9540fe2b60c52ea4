"""A file of one's own over the whole run."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from pathlib import Path

from pipeline.records import Categories
from pipeline.system.files import replaced


class CountsCsv:
    """Writes ``path``: a row a frame, a column a class, how many instances there were.

    It has ``build``, so it is made from predictions.jsonl when the run ends, and need not know
    what was resumed, skipped or failed.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def build(self, predictions: Path, categories: Categories) -> None:
        names = categories.thing_names
        with predictions.open(encoding="utf-8") as lines, replaced(self.path) as file:
            # a file name that is no UTF-8 holds lone surrogates, which only an escape can write
            text = io.TextIOWrapper(file, "utf-8", errors="backslashreplace", newline="")
            rows = csv.writer(text, lineterminator="\n")
            rows.writerow(["asset", "frame", *names])
            for line in map(json.loads, lines):
                count = Counter(instance["class_name"] for instance in line.get("instances", ()))
                rows.writerow([line["asset"], line["frame"], *(count[name] for name in names)])
            text.detach()  # flushes, and leaves the closing to replaced()
