"""A file over the whole run."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from pathlib import Path

from pipeline.records import Categories
from pipeline.system.files import replaced


class CountsCsv:
    """Writes a table of instances, a row per frame and a column per class.

    It is an aggregate: built from predictions.jsonl when the run ends, whatever was resumed,
    skipped or failed.
    """

    is_aggregate = True

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.outputs = (self.path.name,)  # cleared on restart, protected on resume

    def build(self, journal: Path, categories: Categories) -> None:
        names = categories.thing_names
        with journal.open(encoding="utf-8") as lines, replaced(self.path) as file:
            # a file name that is not UTF-8 holds lone surrogates, which must be escaped
            text = io.TextIOWrapper(file, "utf-8", errors="backslashreplace", newline="")
            rows = csv.writer(text, lineterminator="\n")
            rows.writerow(["asset", "frame", *names])
            for line in map(json.loads, lines):
                count = Counter(instance["class_name"] for instance in line.get("instances", ()))
                rows.writerow([line["asset"], line["frame"], *(count[name] for name in names)])
            text.detach()  # flushes, but leaves the file open for replaced()
