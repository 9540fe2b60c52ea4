import copy
import hashlib
import pickle
import random
import re
from datetime import datetime, timedelta, timezone

import pytest

from pipeline.errors import ConfigError, ModelCorruptError, PipelineError
from pipeline.store.disk import info as info_module
from pipeline.store.disk.info import ModelInfo, sealed
from pipeline.store.disk.version import open_version

BASE = {
    "name": "crack",
    "version": "v1",
    "created": "2026-01-02T03:04:05.000006+00:00",
    "labels": {"team": "vision"},
    "files": {"config.yaml": {"size": 4, "sha256": "0" * 64}},
}


def read(content):
    return ModelInfo(sealed(content), "'model.yaml'")


def resealed(body):
    return body + f"digest: {hashlib.sha256(body).hexdigest()}\n".encode()


def test_a_mapping_and_attributes():
    info = read(BASE)
    assert list(info) == [*BASE, "digest"]
    assert len(info) == 6
    assert {key: info[key] for key in BASE} == BASE
    assert dict(info) == {**BASE, "digest": info.digest}
    assert (info.name, info.version, info.tag) == ("crack", "v1", "crack:v1")
    assert info.labels is info["labels"]
    assert info == read(BASE) != read(BASE | {"labels": {}})
    assert "labels" in info
    assert "origin" not in info
    assert info.get("origin", {}) == {}


@pytest.mark.parametrize("ask", [lambda i: i["origin"], lambda i: i["_values"], lambda i: i[""]])
def test_unknown_key(ask):
    with pytest.raises(KeyError):
        ask(read(BASE))


@pytest.mark.parametrize("name", ["origin", "_repr_html_", "__array__"])
def test_unknown_attribute(name):
    assert not hasattr(read(BASE), name)
    with pytest.raises(AttributeError, match=r"has no .*; it has name, version"):
        getattr(read(BASE), name)


@pytest.mark.parametrize(
    "again",
    [
        copy.copy,
        copy.deepcopy,
        pytest.param(lambda info: pickle.loads(pickle.dumps(info)), id="pickle"),
    ],
)
def test_copies(again):
    assert again(read(BASE)) == read(BASE)


def test_only_what_is_asked_for_is_parsed(monkeypatch):
    parsed = []
    parse_yaml = info_module.parse_yaml

    def noted(text, where):
        parsed.append(text.partition(":")[0])
        return parse_yaml(text, where)

    monkeypatch.setattr(info_module, "_parsed", noted)
    info = read(BASE)
    assert (info.name, info.name, info.tag) == ("crack", "crack", "crack:v1")
    assert parsed == ["name", "version"]


NASTY = [
    "name: x", "a\nname: x", "a\n\n\nname: x\n", "name: x\n" * 300, "\nfiles:\n  a: 1\n",
    "files:", "---", "a\n---\nname: x", "...", "a\n...\n", f"a\ndigest: {'0' * 64}\n",
    "%YAML 1.1\n---", " leading", "  \n  name: x", "trailing ", "\ttab", "\n", " \n ", "",
    "a\r\nname: x", "a\rname: x", "a: b", "a:b", "a #c", "# c", "- a", "? a", "&a", "*a", "!a",
    "!!python/none", "@a", "`a", "|", ">", "|\nname: x", "'", '"', "\\", "{", "[", "<<", "=",
    "a\0b", "\x1b[31m", "\x7f", "\x80", "\x85", "a\x85name: x", "a\u2028name: x", "a\u2029name: x",
    "\ufeffname: x", "\ufffe", "\udcff", "ü", "日本", "😀", "\U0010ffff", "e\u0301", "\u202etxet",
    "x" * 5000, "word " * 2000, "é" * 300 + "\nname: x", "2026-01-02", "2026-01-02T03:04:05+00:00",
    "null", "~", "yes", "NO", "on", "true", "1", "1_000", "1:30", "0x1f", "0o17", "017", "0b1",
    "1e5", "1.0e+5", ".5", ".inf", "-.INF", ".nan", "+1",
]  # fmt: skip


@pytest.mark.parametrize("text", NASTY, ids=lambda text: ascii(text)[:24])
@pytest.mark.parametrize("key", ["labels", "note", "files"])
def test_any_text_stays_itself(text, key):
    for value in (text, [text], {text: text}, {"a": [text, {text: text}]}, [[text], text]):
        content = {"name": "crack", key: value, "version": "v1"}
        info = read(content)
        assert {name: info[name] for name in content} == content
        assert list(info) == ["name", key, "version", "digest"]


def test_random_texts_stay_themselves():
    generator = random.Random(0)
    alphabet = "an: \n\n\n\t\r-#'\"?[]{}&*!|>%@`,\\0~=\u2028\u2029😀."
    texts = [
        "".join(generator.choices(alphabet, k=generator.randrange(1, 40))) for _ in range(2000)
    ]
    content = {"name": texts[0], "labels": {t: t for t in texts}, "metadata": texts, "version": "v"}
    assert dict(read(content)) == {**content, "digest": read(content).digest}


@pytest.mark.parametrize(
    "value",
    [
        {}, [], [[]], [{}], {"a": {}}, {"a": [{"b": []}]}, None, True, False, 0, -1, 2**80, 0.1,
        -0.0, 1e5, 1e16, 1e300, 5e-324, {"a": None, "b": [None, True, 1, 1.5, "1"]},
    ],
    ids=repr,
)  # fmt: skip
def test_any_plain_value_stays_itself(value):
    for content in ({"x": value, "y": {"z": value}}, {"y": [value], "x": value}):
        info = read(content)
        assert repr({key: info[key] for key in content}) == repr(content)


def test_what_is_shared_is_written_twice():
    shared = {"deep": ["a", "b"]}
    content = {"labels": shared, "metadata": {"x": shared, "y": [shared, shared]}, "files": shared}
    text = sealed(content)
    assert not re.search(rb"[&*]id", text)
    info = ModelInfo(text, "")
    assert {key: info[key] for key in content} == content  # each parsed by itself


def test_what_is_below_a_key_is_indented_or_a_list():
    content = {"name": "crack", "labels": {t: t for t in NASTY}, "metadata": NASTY, "version": "v1"}
    lines = sealed(content).decode().split("\n")
    assert [line.partition(":")[0] for line in lines if re.match(r"[^\s-]", line)] == [
        *content,
        "digest",
    ]


def test_every_bit_counts():
    text = sealed({"name": "crack", "labels": {"ü": "b\n\nc"}})
    for position in range(len(text)):
        for bit in range(8):
            flipped = bytearray(text)
            flipped[position] ^= 1 << bit
            with pytest.raises(ModelCorruptError, match=r"'model\.yaml' is damaged"):
                ModelInfo(bytes(flipped), "'model.yaml'")


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda t: b"", id="emptied"),
        pytest.param(lambda t: t[:-1], id="without the last line's end"),
        pytest.param(lambda t: t[: t.rindex(b"digest")], id="without the digest"),
        pytest.param(lambda t: t[t.rindex(b"digest") :], id="only the digest"),
        pytest.param(lambda t: t + b"\n", id="longer"),
        pytest.param(lambda t: t + b"name: other\n", id="continued"),
        pytest.param(lambda t: b"name: other\n" + t, id="begun anew"),
        pytest.param(lambda t: t + t, id="twice"),
        pytest.param(lambda t: t.replace(b"\n", b"\r\n"), id="CRLF"),
        pytest.param(lambda t: b"\xef\xbb\xbf" + t, id="BOM"),
        pytest.param(lambda t: bytes(len(t)), id="zeros"),
    ],
)
def test_damaged(damage):
    with pytest.raises(ModelCorruptError, match=r"'model\.yaml' is damaged"):
        ModelInfo(damage(sealed(BASE)), "'model.yaml'")


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"name: \xff\n", id="no UTF-8"),
        pytest.param(b"name: [\n", id="no YAML"),
        pytest.param(b"name:x\n", id="no mapping"),
        pytest.param(b"just text\n", id="text"),
        pytest.param(b"name: a\nversion: b\nname: c\nother-key: d\n", id="another key"),
        pytest.param(b"name: *a\n", id="alias"),
        pytest.param(b"name: !!python/name:os.system\n", id="python"),
        pytest.param(b"name: {1: 2}\nversion: v\n", id="number as key"),
        pytest.param(b"name: " + b"[" * 3000 + b"\n", id="deep"),
        pytest.param(b"- name: a\nversion: b\n", id="list"),
    ],
)
def test_sealed_by_someone_else(tmp_path, body):
    folder = tmp_path / "crack" / "v1"
    folder.mkdir(parents=True)
    (folder / "model.yaml").write_bytes(resealed(body))
    with pytest.raises(PipelineError):
        dict(open_version(folder).info)


@pytest.mark.parametrize("value", [object(), 1j, {1j}, range(3), lambda: 0])
def test_what_is_not_plain(value):
    with pytest.raises(ConfigError, match="must be plain values"):
        sealed({"metadata": {"a": [value]}})


@pytest.mark.parametrize("hours", [0, 2, -11])
def test_creation_time_has_a_zone(hours):
    zone = timezone(timedelta(hours=hours))
    created = datetime(2026, 1, 2, 3, 4, 5, 6, zone)
    found = read({"created": created.isoformat(timespec="microseconds")}).creation_time
    assert found == created
    assert found.utcoffset() == timedelta(hours=hours)


def test_the_same_content_has_the_same_digest():
    assert sealed(BASE) == sealed(copy.deepcopy(BASE))
    assert sealed(BASE) != sealed(BASE | {"version": "v2"})
    text = sealed(BASE)
    body = text[: text.rindex(b"digest")]
    assert read(BASE).digest == hashlib.sha256(body).hexdigest()
