"""Prints an evaluation as tables of at most 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.system.terminal import print_stdout
from runners.reporting.console import print_table

KINDS = ("box", "mask", "keypoints")
_COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_MAX_ROWS = 20
_MAX_CONFUSIONS = 5
_MAX_IMAGES = 5
_NAME, _IMAGE, _REASON = 20, 34, 26  # widths of columns


def print_evaluation(evaluation: Mapping[str, Any], path: Path) -> None:
    """Print the most important numbers, in percent.

    Args:
        evaluation: The content of ``evaluation.json``.
        path: Where it was written.
    """
    if "panoptic" in evaluation:
        _print_panoptic(evaluation["panoptic"], path)
    else:
        _print_instances(evaluation, path)
    counts = evaluation["images"]
    n = ""
    if "instances" in evaluation:
        n = f", {evaluation['instances']} instances, {evaluation['detections']} detections"
    print_stdout(f"{counts['evaluated']} images matched by {evaluation['matched_by']}{n}")
    print_stdout(f"evaluation in {path}", unbroken=[str(path)])


def _print_panoptic(found: Mapping[str, Any], path: Path) -> None:
    rows = {**found["classes"], "things": found["things"], "stuff": found["stuff"], "all": found}
    shown = [
        (_short(name, _NAME), *(percent(each[key]) for key in ("PQ", "SQ", "RQ")))
        for name, each in rows.items()
    ]
    _print_limited("Panoptic quality, in percent", ("class", "PQ", "SQ", "RQ"), shown, path)


def _print_instances(evaluation: Mapping[str, Any], path: Path) -> None:
    kinds = [kind for kind in KINDS if kind in evaluation]
    rows = [
        (kind, *(percent(evaluation[kind].get(name)) for name in (*_COLUMNS, _recall(kind))))
        for kind in kinds
    ]
    print_table("COCO's numbers, in percent", ("of", *_COLUMNS, "AR"), rows)
    f1 = evaluation["f1"]
    _print_limited(
        f"Classes, by {f1['of']}: best F1 and its score threshold",
        ("class", "n", "AP", "score ≥", "P", "R", "F1"),
        list(_class_rows(evaluation)),
        path,
    )
    _print_mistakes(evaluation)
    places = [
        (name, each["instances"], percent(each["AP50"]), *_rates(each))
        for name, each in evaluation["positions"].items()
        if each["instances"]
    ]
    print_table("Positions", ("objects", "n", "AP50", "P", "R", "F1"), places)
    if "slices" in evaluation:
        _print_slices(evaluation["slices"], kinds, path)
    if "comparison" in evaluation:
        _print_comparison(evaluation["comparison"])


def percent(value: float | None) -> str:
    """Return a number in percent; ``-`` if there is none."""
    return "-" if value is None else f"{100 * value:.2f}"


def _recall(kind: str) -> str:
    return "AR" if kind == "keypoints" else "AR100"


def _class_rows(evaluation: Mapping[str, Any]) -> Iterator[tuple[object, ...]]:
    f1 = evaluation["f1"]
    numbers = evaluation[f1["of"]]
    classes = f1["classes"]
    for name in sorted(classes, key=lambda name: -classes[name]["instances"]):
        each = classes[name]
        least = "-" if each["threshold"] is None else f"{each['threshold']:g}"
        ap = percent(numbers["classes"][name]["AP"])
        yield _short(name, _NAME), each["instances"], ap, least, *_rates(each)
    n = sum(each["instances"] for each in classes.values())
    yield "all", n, percent(numbers["AP"]), "", *_rates(f1["together"])


def _rates(numbers: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(percent(numbers[name]) for name in ("precision", "recall", "f1"))


def _print_mistakes(evaluation: Mapping[str, Any]) -> None:
    if evaluation["tide"] is not None:
        rows = [
            (name, each["count"], percent(each["ap"]))
            for name, each in evaluation["tide"].items()
            if each["count"] is not None  # the others are sums
        ]
        print_table("Errors (TIDE)", ("error", "count", "AP50 lost"), rows)
    names, matrix = evaluation["confusion"]["classes"], evaluation["confusion"]["matrix"]
    confused = [
        (matrix[i][k], _short(names[i], _NAME), _short(names[k], _NAME))
        for i in range(len(names) - 1)
        for k in range(len(names) - 1)
        if i != k and matrix[i][k]
    ]
    confused.sort(key=lambda row: -row[0])
    if confused:
        shown = confused[:_MAX_CONFUSIONS]
        print_table("Confused classes", ("count", "is", "detected as"), shown)
    worst = [
        (each["errors"], _end(each["asset"], _IMAGE), _short(", ".join(each["reasons"]), _REASON))
        for each in evaluation["worst_images"][:_MAX_IMAGES]
    ]
    if worst:
        print_table("Images with the most errors", ("errors", "image", "reasons"), worst)
    ece = evaluation["calibration"]["ece"]
    if ece is not None:
        print_stdout(f"scores differ from precision by {percent(ece)} % on average (ECE)")


def _print_slices(found: Mapping[str, Any], kinds: Sequence[str], path: Path) -> None:
    rows = [
        (
            _short(value, _NAME),
            *(each[name] for name in ("images", "instances", "errors")),
            *(percent(each[kind]["AP"]) for kind in kinds),
        )
        for value, each in found["values"].items()
    ]
    columns = (_short(found["column"], _NAME), "images", "n", "errors", *(f"{k} AP" for k in kinds))
    _print_limited("Slices", columns, rows, path)


def _print_comparison(found: Mapping[str, Any]) -> None:
    rows: list[tuple[object, ...]] = []
    for kind in (kind for kind in KINDS if kind in found):
        for name in ("AP", "AP50", "AP75"):
            each = found[kind][name]
            interval = each["interval"]
            shown = "-" if interval is None else " to ".join(map(percent, interval))
            numbers = (percent(each[key]) for key in ("this", "other", "difference"))
            rows.append((kind, name, *numbers, shown))
    columns = ("of", "", "this", "other", "difference", "95 % interval")
    print_table("Compared with the other run", columns, rows)
    different = [
        (each["errors"], each["other_errors"], _end(each["asset"], _IMAGE))
        for each in found["disagreements"][:_MAX_IMAGES]
    ]
    if different:
        head = ("errors", "of the other", "image")
        print_table("Images with the largest difference", head, different)


def _print_limited(
    title: str, columns: Sequence[str], rows: Sequence[tuple[object, ...]], path: Path
) -> None:
    """Print the first rows, and the last one, which may be a sum."""
    left = len(rows) - _MAX_ROWS - 1
    shown = [*rows[:_MAX_ROWS], rows[-1]] if left > 0 else rows
    print_table(title, columns, shown)
    if left > 0:
        print_stdout(f"{left} more rows are in {path.name}")


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _end(text: str, width: int) -> str:
    return text if len(text) <= width else f"...{text[3 - width :]}"
