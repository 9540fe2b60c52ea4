"""The checks of BentoML's tests for labels and metadata, and the same results as the real one."""

import copy
import enum
import json
import math
from datetime import date, datetime, time, timedelta, timezone
from pathlib import Path
from types import MappingProxyType
from zoneinfo import ZoneInfo

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.store.disk.info import ModelInfo, sealed
from pipeline.store.disk.plain import json_value, plain_labels, plain_metadata
from pipeline.store.disk.signatures import Signature, plain_signatures

ITSELF = []
ITSELF.append(ITSELF)
EAST = timezone(timedelta(hours=5, minutes=30))
WHEN = datetime(2026, 1, 2, 3, 4, 5, 6)


class Text(str, enum.Enum):
    A = "a"


class Number(enum.IntEnum):
    ONE = 1


def round_trip(metadata):
    return ModelInfo(sealed({"metadata": plain_metadata(metadata), "name": "x"}), "")["metadata"]


def exact(value):
    """Return a value with its types; NaN is equal to itself."""
    if isinstance(value, dict):
        return {exact(key): exact(item) for key, item in value.items()}
    return (
        [exact(item) for item in value] if isinstance(value, list) else (type(value), repr(value))
    )


# as in BentoML, except that its times come back as text
SAME = [
    "text", "", "2026-01-02", "1", "true", "null", ".nan", "a\nb: c", "ü", True, False, 0, 12, -1,
    2**80, 13.3, -0.0, 1e300, 1e16, math.nan, math.inf, -math.inf, b"", b"\0\xff", b"x" * 500,
    date(2026, 1, 2), date(1, 1, 1), [], [1, [2.5, "x"]], {}, {"a": {"b": [1]}},
    {1: "a", 2.5: "b", "c": 3}, {True: 1, "yes": 2}, {-1: {0: {math.inf: []}}},
]  # fmt: skip
TIMES = [
    WHEN, WHEN.replace(microsecond=0), datetime(2026, 1, 2), datetime.min, datetime.max,
    *(WHEN.replace(tzinfo=zone) for zone in (timezone.utc, EAST, timezone(timedelta(hours=-11)))),
]  # fmt: skip
CONVERTED = [
    (np.uint(3), 3),
    (np.float32(0.5), 0.5),
    (np.float64("nan"), math.nan),
    (np.bool_(True), True),
    (np.str_("a"), "a"),
    (np.bytes_(b"a"), b"a"),
    (np.array([1, 2, 3]), [1, 2, 3]),
    (np.array([[1.5], [math.inf]]), [[1.5], [math.inf]]),
    (np.datetime64("2022-03-17"), date(2022, 3, 17)),
    ((1, ("a",)), [1, ["a"]]),
    ([np.int8(1), {"x": np.arange(2)}], [1, {"x": [0, 1]}]),
]
OURS = [  # values that BentoML refuses, or cannot write
    (None, None),
    ({"a": None}, {"a": None}),
    (torch.tensor([1, 2]), [1, 2]),
    (np.datetime64("NaT"), None),
    (Text.A, "a"),
    (Number.ONE, 1),
    (MappingProxyType({"a": 1}), {"a": 1}),
    ({np.int64(1): 2, Number.ONE + 1: 3}, {1: 2, 2: 3}),
]


@pytest.mark.parametrize("value", [*SAME, *TIMES], ids=lambda value: repr(value)[:30])
def test_metadata_round_trip(value):
    given = {"a": value, "b": [value], "c": {"d": value}}
    before = exact(given)
    assert exact(round_trip(given)) == exact(given) == before


@pytest.mark.parametrize(("value", "expected"), [*CONVERTED, *OURS], ids=repr)
def test_converted_metadata(value, expected):
    assert exact(round_trip({"a": value})) == exact({"a": expected})


@pytest.mark.parametrize("value", [*SAME, *(value for value, _ in CONVERTED)], ids=repr)
def test_the_same_metadata_as_bentoml(value):
    validate = pytest.importorskip("bentoml._internal.utils").validate_metadata
    theirs = {"a": copy.deepcopy(value)}
    validate(theirs)
    assert exact(plain_metadata({"a": value})) == exact(json_lists(theirs))


def json_lists(value):
    """Return BentoML's values as it reads them again: tuples are lists."""
    if isinstance(value, dict):
        return {key: json_lists(item) for key, item in value.items()}
    return [*map(json_lists, value)] if isinstance(value, (list, tuple)) else value


def test_times_of_named_zones():
    winter = WHEN.replace(tzinfo=ZoneInfo("Europe/Berlin"))
    old = datetime(1850, 1, 1, tzinfo=ZoneInfo("Europe/Berlin"))  # UTC+0:53:28
    assert round_trip({"a": [winter, old]}) == {"a": [winter, old]}


@pytest.mark.parametrize("kind", [dict, MappingProxyType])
def test_metadata_is_copied(kind):
    inner = {"x": [1]}
    copied = plain_metadata(kind({"a": inner}))
    copied["a"]["x"].append(2)
    assert inner == {"x": [1]}


def test_large_metadata_with_numbers_as_keys():  # too large for the fast parser
    given = {"a": {i: {float(i) + 0.5: str(i)} for i in range(2000)}}
    assert exact(round_trip(given)) == exact(given)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        pytest.param({"a": ITSELF}, "nested too deeply or contains itself", id="itself"),
        pytest.param({"a": 1 << 5000}, "metadata.a: expected text, numbers", id="huge-number"),
        *(
            pytest.param(
                {"a": [0, {"b": value}]}, r"metadata\.a\[1\]\.b(\[0\])?: expected .* got", id=name
            )
            for name, value in {
                "set": {1, 2},
                "object": object(),
                "complex": 1j,
                "time": time(1),
                "timedelta": timedelta(1),
                "path": Path("a"),
                "longdouble": np.longdouble(1),
                "complex array": np.array([1j]),
            }.items()
        ),
        *(
            pytest.param({"a": {key: 1}}, "metadata.a: expected text or a number as a key", id=name)
            for name, key in {"none": None, "bytes": b"a", "date": date(2026, 1, 2)}.items()
        ),
        pytest.param({(12,): 1}, "metadata: expected text or a number as a key", id="tuple"),
        pytest.param({1: 2, "1": 3}, "the keys 1 and '1' are the same text", id="twice"),
        *(
            pytest.param(value, "^metadata: expected a mapping of names to values, .* got", id=name)
            for name, value in {"text": "abc", "list": ["a"], "set": {1}, "empty": []}.items()
        ),
    ],
)
def test_refused_metadata(metadata, message):
    with pytest.raises(ConfigError, match=message) as caught:
        plain_metadata(metadata)
    assert len(str(caught.value)) < 300


def test_unreadable_values_are_rejected():
    assert sealed({"metadata": {"curve": list(range(20_000))}})
    for value in (list(range(60_000)), b"x" * (4 << 20)):
        with pytest.raises(ConfigError, match="Save other and large data as custom_objects"):
            sealed({"metadata": {"curve": value}})


def test_json():
    given = {"nan": math.nan, "far": [-math.inf], 1: {2.5: b"\0\xff", True: None}, "on": WHEN}
    text = json.dumps(json_value(plain_metadata(given)), allow_nan=False)
    assert json.loads(text) == {
        "nan": "NaN",
        "far": ["-Infinity"],
        "1": {"2.5": "AP8=", "true": None},
        "on": "2026-01-02T03:04:05.000006",
    }


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (None, {}),
        ({}, {}),
        ({"label1": "label", "label3": "anotherlabel"},) * 2,
        (
            {"a": 1, "b": 1.5, "c": True, "d": math.nan},
            {"a": "1", "b": "1.5", "c": "true", "d": "nan"},
        ),
        ({Text.A: Text.A, "b": Number.ONE}, {"a": "a", "b": "1"}),
    ],
)  # fmt: skip
def test_labels(labels, expected):
    assert exact(plain_labels(labels)) == exact(expected)


@pytest.mark.parametrize(
    "labels", ["text", ["a"], [], {1}, [("a", "b")], {(12,): "a"}, {1: "a"}, {"a": None}, {"a": []}]
)
def test_refused_labels(labels):
    with pytest.raises(ConfigError, match=r"^labels: expected a mapping|^label .*: expected text"):
        plain_labels(labels)


SIGNATURES = {
    "predict": {"batchable": False},
    "classify": {"batchable": True, "batch_dim": (0, 0)},
    "predict_ii": {"batchable": True, "batch_dim": (0, 3)},
    "classify_ii": {"batchable": True, "batch_dim": (1, 3)},
    "one": {"batchable": True, "batch_dim": 1},
    "pytest-signature-rjM5": {},
    "described": {"batchable": True, "input_spec": {"shape": [1, 2]}, "output_spec": "boxes"},
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_same_signatures_as_bentoml(name):
    model = pytest.importorskip("bentoml._internal.models.model")
    theirs = model.ModelSignature.from_dict(SIGNATURES[name])
    for given in (SIGNATURES[name], theirs):
        stored = ModelInfo(sealed({"signatures": plain_signatures({name: given})}), "")
        ours = stored.signatures[name]
        assert ours == theirs
        assert ours == stored["signatures"][name]
        for key in ("batchable", "batch_dim", "input_spec", "output_spec"):
            assert getattr(ours, key) == getattr(theirs, key)
            assert type(getattr(ours, key)) is type(getattr(theirs, key))
    assert ours != model.ModelSignature(batchable=True, batch_dim=(7, 7))
    assert ours != "text"


@pytest.mark.parametrize(
    ("signatures", "message"),
    [
        ({}, "signatures is empty"),
        (["a"], "signatures: expected a mapping of names to options"),
        ({1: {}}, "expected the name of a method, got 1"),
        ({"": {}}, "expected the name of a method, got ''"),
        ({"a": 1}, "signature a: expected a mapping with batchable, .* got 1"),
        ({"a": {"x": 1}}, "signature a: expected a mapping with batchable"),
        ({"a": {1: 2}}, "signature a: expected a mapping with batchable"),
        ({"a": {"batchable": "yes"}}, "batchable: expected true or false, got 'yes'"),
        ({"a": {"batch_dim": "0"}}, "batch_dim: expected a dimension or a pair, .* got '0'"),
        ({"a": {"batch_dim": [1, 2, 3]}}, "batch_dim: expected"),
        ({"a": {"batch_dim": True}}, "batch_dim: expected"),
        ({"a": {"batch_dim": None}}, "batch_dim: expected"),
        ({"a": {"input_spec": object()}}, "signature a.input_spec: expected text"),
    ],
)
def test_refused_signatures(signatures, message):
    with pytest.raises(ConfigError, match=message):
        plain_signatures(signatures)


def test_a_signature_is_a_mapping():
    signature = Signature({"batchable": True})
    assert dict(signature) == {"batchable": True}
    assert signature["batchable"] is signature.batchable is True
