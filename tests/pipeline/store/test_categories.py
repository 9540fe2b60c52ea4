import json
import warnings

import pytest

from pipeline.errors import ConfigError
from pipeline.store.categories import TABLES, named, table


@pytest.mark.detectron2
def test_tables_are_detectron2s():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from detectron2.data import MetadataCatalog

    panoptic = MetadataCatalog.get("coco_2017_val_panoptic_separated")
    person = MetadataCatalog.get("keypoints_coco_2017_val")
    coco = table("coco_panoptic")
    assert list(coco.thing_names) == panoptic.thing_classes
    assert list(coco.stuff_names) == panoptic.stuff_classes
    things = panoptic.thing_dataset_id_to_contiguous_id
    stuff = panoptic.stuff_dataset_id_to_contiguous_id
    assert {number: i for i, number in enumerate(coco.thing_ids)} == things
    assert {number: i for i, number in enumerate(coco.stuff_ids)} == stuff
    assert table("coco").thing_names == coco.thing_names
    assert table("coco_stuff").stuff_ids == coco.stuff_ids
    posed = table("coco_person")
    assert posed.thing_names == ("person",)
    assert posed.keypoint_names == tuple(person.keypoint_names)
    names = posed.keypoint_names
    assert [(names[a], names[b]) for a, b in posed.skeleton] == [
        (a, b) for a, b, _ in person.keypoint_connection_rules
    ]


def test_sizes():
    assert [(len(table(t).thing_names), len(table(t).stuff_names)) for t in TABLES] == [
        (80, 0),
        (80, 54),
        (1, 0),
        (0, 54),
    ]


def test_unknown_table():
    with pytest.raises(ConfigError, match=r"'cocco'; did you mean 'coco'"):
        table("cocco")


@pytest.mark.parametrize(
    ("name", "content", "names", "ids"),
    [
        pytest.param("a.txt", b"cat\n\n dog \r\n", ("cat", "dog"), (1, 2), id="text"),
        pytest.param("a.txt", b"\xef\xbb\xbfcat\n\xc3\xbc\n", ("cat", "ü"), (1, 2), id="bom"),
        pytest.param(
            "a.json",
            json.dumps({"categories": [{"id": 7, "name": "b"}, {"id": 3, "name": "a"}]}).encode(),
            ("a", "b"),
            (3, 7),
            id="coco-ordered-by-id",
        ),
    ],
)
def test_named_from_file(tmp_path, name, content, names, ids):
    path = tmp_path / name
    path.write_bytes(content)
    found = named(str(path))
    assert (found.thing_names, found.thing_ids) == (names, ids)


def test_named_list():
    assert named(["a", "b"]).thing_names == ("a", "b")
    assert named(["a", "b"], semantic=True).stuff_names == ("a", "b")


def test_coco_with_stuff_and_keypoints(tmp_path):
    path = tmp_path / "a.json"
    rows = [{"id": 1, "name": "p", "keypoints": ["x", "y"], "skeleton": [[1, 2]], "isthing": 1}]
    rows += [{"id": 2, "name": "sky", "isthing": 0}]
    path.write_text(json.dumps({"categories": rows}))
    found = named(str(path))
    assert (found.stuff_names, found.stuff_ids) == (("things", "sky"), (0, 2))
    assert (found.keypoint_names, found.skeleton) == (("x", "y"), ((0, 1),))


def test_list_in_json(tmp_path):
    path = tmp_path / "names.json"
    path.write_text('["a", "b, c"]')
    assert named(str(path)).thing_names == ("a", "b, c")


def test_metadata_of_a_data_set(tmp_path):
    """As ``json.dump(MetadataCatalog.get(name).as_dict(), file)`` writes it."""
    path = tmp_path / "metadata.json"
    metadata = {
        "name": "mine",
        "thing_classes": ["p", "q"],
        "thing_dataset_id_to_contiguous_id": {"7": 1, "3": 0},
        "stuff_classes": ["sky"],
        "keypoint_names": ["x", "y"],
        "keypoint_connection_rules": [["x", "y", [1, 2, 3]]],
    }
    path.write_text(json.dumps(metadata))
    found = named(str(path))
    assert (found.thing_names, found.thing_ids) == (("p", "q"), (3, 7))
    assert (found.stuff_names, found.stuff_ids) == (("sky",), (1,))
    assert (found.keypoint_names, found.skeleton) == (("x", "y"), ((0, 1),))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        pytest.param("no.txt", None, "cannot read", id="missing"),
        pytest.param("a.txt", b"\xff\xfe", "not UTF-8", id="binary"),
        pytest.param("a.txt", b"\n\n", "no names", id="empty"),
        pytest.param("a.txt", b"a\nb\na\n", "a name twice: a", id="twice"),
        pytest.param("a.json", b"{", "is not JSON", id="broken"),
        pytest.param("a.json", b"[]", "no names", id="empty-list"),
        pytest.param("a.json", b"[1, 2]", "neither a COCO file", id="list-of-numbers"),
        pytest.param("a.json", b"3", "neither a COCO file", id="number"),
        pytest.param("a.json", b"{}", "not a COCO file", id="nothing"),
        pytest.param("a.json", b'{"thing_classes": 3}', "MetadataCatalog", id="metadata"),
        pytest.param("a.json", b'{"thing_classes": ["a", "a"]}', "twice: a", id="metadata-twice"),
        pytest.param("a.json", b'{"categories": [{"id": 1}]}', "not a COCO file", id="no-name"),
        pytest.param(
            "a.json",
            b'{"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}',
            "an id stands there twice",
            id="same-id",
        ),
    ],
)
def test_refused(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        named(str(tmp_path / name))
