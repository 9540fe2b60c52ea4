"""The checks of BentoML's tests for ``Tag``, and the same results as the real one."""

import copy
import logging
import pickle
from types import SimpleNamespace

import pytest

from pipeline.errors import ConfigError
from pipeline.store import Tag
from pipeline.store.disk import tags

bentoml = pytest.importorskip("bentoml")

TEXTS = [
    "a", "crack", "a1", "1a", "a.b-c_d", "crack:v1", "crack:latest", "crack:2026-01.2_b", "0:0",
    "Crack", "CRACK:V1", "crack:Latest", "crack:LATEST", "a" * 63, "a" * 64, "a:" + "b" * 63,
    "a:" + "b" * 64, "", ":", "a:", ":v1", "a:b:c", "a::b", "-a", ".a", "_a", "a:-b", "a:.b", "a b",
    " a", "a/b", "../a", "a:..", "ü", "Ü", "a\0", "a@b", "a:b/c",
]  # fmt: skip
KEPT = ["crack_", "crack-", "crack.", "crack:v1_", "crack:v-", "crack_:v1"]


@pytest.fixture(autouse=True)
def every_warning():
    tags._lower_case.cache_clear()


def converted(convert, text):
    try:
        tag = convert(text)
    except (ValueError, ConfigError, bentoml.exceptions.BentoMLException):
        return "refused"
    return str(tag), tag.name, tag.version


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_the_same_as_bentoml(text):
    assert converted(Tag, text) == converted(bentoml.Tag.from_taglike, text)
    assert converted(Tag.from_taglike, text) == converted(Tag, text)


@pytest.mark.parametrize("text", KEPT)
def test_names_that_only_d2run_allows(text):
    assert str(Tag(text)) == text
    with pytest.raises((ValueError, bentoml.exceptions.BentoMLException)):
        bentoml.Tag.from_taglike(text)


@pytest.mark.parametrize("text", ["a\n", "a:b\n"], ids=ascii)
def test_names_that_only_bentoml_allows(text):
    assert str(bentoml.Tag.from_taglike(text)) == text  # "$" in its pattern matches before "\n"
    with pytest.raises(ConfigError):
        Tag(text)


@pytest.mark.parametrize("parts", [("crack",), ("crack", None), ("crack", "v1"), ("Crack", "V1")])
def test_parts(parts):
    ours, theirs = Tag(*parts), bentoml.Tag(*parts)
    assert (ours, ours.name, ours.version) == (str(theirs), theirs.name, theirs.version)
    assert type(ours.name) is str
    assert Tag.from_taglike(theirs) == ours
    assert Tag.from_taglike(ours) is ours
    assert Tag.from_taglike(SimpleNamespace(tag=theirs)) == ours
    assert Tag.from_taglike(SimpleNamespace(tag=ours)) is ours


def test_equality_order_and_copies():
    one, same, other = Tag("a", "v1"), Tag("a:v1"), Tag("a", "v2")
    assert one == same == "a:v1"
    assert hash(one) == hash(same)
    assert one != other
    assert sorted([other, one, Tag("a")]) == ["a", "a:v1", "a:v2"]
    assert {one: 1}[same] == 1
    for again in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert (type(again), again, again.version) == (Tag, one, "v1")


def test_one_warning_per_name(caplog):
    with caplog.at_level(logging.WARNING):
        assert [Tag("Crack:V1"), Tag("Crack:V1"), Tag("crack:v1")] == ["crack:v1"] * 3
    assert caplog.messages == ["the tag 'Crack:V1' is converted to lower case: 'crack:v1'"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "expected a tag, as in .*, or a stored model, got None"),
        (3, "got a value of type int"),
        (b"crack", "got a value of type bytes"),
        (SimpleNamespace(tag=None), "got None"),
        ("a" * 64, "1 to 63 of a-z"),
        ("a:" + "b" * 64, "expected a version, 1 to 63 of a-z"),
        ("crack:", "'crack:' has no version after ':'; use 'crack:latest' or 'crack'"),
    ],
)
def test_what_is_wrong(given, message):
    with pytest.raises(ConfigError, match=message):
        Tag.from_taglike(given)
