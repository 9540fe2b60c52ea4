import json
import os
import re
import warnings
from datetime import date

import pytest

from pipeline.errors import ConfigError
from pipeline.models.categories import TABLES, dataset_categories, parse_class_names, table
from pipeline.models.config_file import read_config
from pipeline.models.zoo import zoo_names


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
    found = parse_class_names(str(path))
    assert (found.thing_names, found.thing_ids) == (names, ids)


def test_named_list():
    assert parse_class_names(["a", "b"]).thing_names == ("a", "b")
    assert parse_class_names(["a", "b"], semantic=True).stuff_names == ("a", "b")


def test_coco_with_stuff_and_keypoints(tmp_path):
    path = tmp_path / "a.json"
    rows = [{"id": 1, "name": "p", "keypoints": ["x", "y"], "skeleton": [[1, 2]], "isthing": 1}]
    rows += [{"id": 2, "name": "sky", "isthing": 0}]
    path.write_text(json.dumps({"categories": rows}))
    found = parse_class_names(str(path))
    assert (found.stuff_names, found.stuff_ids) == (("things", "sky"), (0, 2))
    assert (found.keypoint_names, found.skeleton) == (("x", "y"), ((0, 1),))


@pytest.mark.parametrize(
    ("given", "names", "ids"),
    [
        pytest.param({0: "Text", 1: "Title"}, ("Text", "Title"), (0, 1), id="ids"),
        pytest.param({"0": "Text", "1": "Title"}, ("Text", "Title"), (0, 1), id="ids-as-text"),
        pytest.param({3: "car", 1: "person"}, ("person", "car"), (1, 3), id="data-set's-own"),
        pytest.param([0, 1, 2], ("0", "1", "2"), (1, 2, 3), id="digits"),
        pytest.param([" a ", "b c"], ("a", "b c"), (1, 2), id="spaces"),
        pytest.param(["yes", "null", "1e3", "~"], None, (1, 2, 3, 4), id="quoted"),
        pytest.param(["日本", "العربية", "👩\u200d🚀", "a" * 300], None, (1, 2, 3, 4), id="any"),
    ],
)
def test_as_written(given, names, ids):
    found = parse_class_names(given)
    assert (found.thing_names, found.thing_ids) == (names or tuple(given), ids)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param([True, False], "class name 0 is a boolean, true: quote it", id="yes"),
        pytest.param(["a", None], "class name 1 is null: quote it", id="null"),
        pytest.param([1e3], r"class name 0 is a number, 1000\.0: quote it", id="1e3"),
        pytest.param([date(2020, 1, 2)], 'is a date, "2020-01-02": quote it', id="date"),
        pytest.param([["a"]], "is not text but a list", id="nested"),
        pytest.param(["a", ""], "class name 1.*is empty", id="empty"),
        pytest.param(["a", "  "], "class name 1.*is empty", id="blank"),
        pytest.param(["a", " a"], "a name twice: a; rename one", id="twice-without-spaces"),
        pytest.param(["a\nb"], "control character, U[+]000A", id="newline"),
        pytest.param(["a\0"], "control character, U[+]0000", id="nul"),
        pytest.param(["\udcff"], "half of a surrogate pair, U[+]DCFF", id="surrogate"),
        pytest.param({"a": 0}, "'a' is not the id of a category", id="name-to-id"),
        pytest.param({True: "a"}, "True is not the id", id="boolean-id"),
        pytest.param({-1: "a"}, "-1 is not the id", id="negative-id"),
        pytest.param(5, "class_names is 5; give a list", id="number"),
        pytest.param({"a", "b"}, "give a list", id="set"),
        pytest.param([], "has no names", id="none"),
    ],
)
def test_refused_names(given, message):
    with pytest.raises(ConfigError, match=message):
        parse_class_names(given)


@pytest.mark.parametrize(
    ("rows", "semantic", "n", "names", "ids"),
    [
        # (id, name, isthing); the model's number of stuff classes
        pytest.param([(1, "a", 0), (2, "b", 0)], True, None, "a b", (1, 2), id="stuff-alone"),
        pytest.param([(1, "a", 0), (2, "b", 0)], True, 3, "things a b", (0, 1, 2), id="and-things"),
        pytest.param([(1, "a", 1), (2, "b", 1)], True, None, "a b", (1, 2), id="isthing-is-unset"),
        pytest.param([(1, "a", 1), (2, "b", 0)], True, None, "things b", (0, 2), id="separated"),
        pytest.param([(1, "a", 1), (2, "b", 0)], True, 2, "things b", (0, 2), id="as-many"),
        pytest.param(
            [(1, "a", 1), (2, "b", 0), (3, "c", 1)], True, 3, "a b c", (1, 2, 3), id="every"
        ),
        pytest.param([(0, "a", 0), (1, "p", 1)], False, None, "things a", (2, 0), id="id-0"),
        pytest.param([(0, "p", 1), (5, "a", 0)], False, None, "things a", (6, 5), id="thing-0"),
        pytest.param(
            [(0, "things", 0), (1, "a", 0), (2, "p", 1)],
            False,
            None,
            "things a",
            (0, 1),
            id="own",
        ),
    ],
)
def test_stuff_of_a_coco_file(tmp_path, rows, semantic, n, names, ids):
    path = tmp_path / "a.json"
    categories = [{"id": i, "name": name, "isthing": thing} for i, name, thing in rows]
    path.write_text(json.dumps({"categories": categories}))
    found = parse_class_names(str(path), semantic=semantic, n_stuff=n)
    assert (found.stuff_names, found.stuff_ids) == (tuple(names.split()), ids)
    assert semantic is (found.thing_names == ())


@pytest.mark.parametrize(
    ("root", "n", "names"),
    [
        pytest.param("crack", None, ("crack (root)", "crack"), id="as-Detectron2-reads-it"),
        pytest.param("crack", 2, ("crack (root)", "crack"), id="trained-with-it"),
        pytest.param("crack", 1, ("crack",), id="trained-without-it"),
        pytest.param("damages", 2, ("damages", "crack"), id="other-name"),
        pytest.param("damages", 1, ("crack",), id="other-name-without-it"),
    ],
)
def test_roboflows_root(tmp_path, root, n, names):
    path = tmp_path / "_annotations.coco.json"
    rows = [{"id": 0, "name": root, "supercategory": "none"}]
    rows += [{"id": 1, "name": "crack", "supercategory": root}]
    path.write_text(json.dumps({"categories": rows}))
    assert parse_class_names(str(path), n_things=n).thing_names == names


@pytest.mark.parametrize(
    ("name", "content", "names"),
    [
        pytest.param("a.json", '["a", "b, c"]', ("a", "b, c"), id="list"),
        pytest.param("a.json", '{"0": "a", "1": "b"}', ("a", "b"), id="id2label"),
        pytest.param("a.json", "[1, 2]", ("1", "2"), id="digits"),
        pytest.param("a.json", '[{"id": 1, "name": "a"}]', ("a",), id="rows-alone"),
        pytest.param("a.yaml", "[a, 'yes']", ("a", "yes"), id="yaml-list"),
        pytest.param("a.yml", "0: a\n1: b\n", ("a", "b"), id="yaml-mapping"),
        pytest.param("data.yaml", "train: x\nnames:\n  0: a\n  1: b\n", ("a", "b"), id="yolo"),
        pytest.param("data.yaml", "nc: 1\nnames: [a]\n", ("a",), id="yolo-list"),
    ],
)
def test_other_files(tmp_path, name, content, names):
    (tmp_path / name).write_text(content)
    assert parse_class_names(str(tmp_path / name)).thing_names == names


def test_keypoints_of_several_classes(tmp_path):
    """Roboflow's root has none, and some tools count a skeleton's points from 0."""
    path = tmp_path / "a.json"
    posed = {"keypoints": ["x", "y"], "skeleton": [[0, 1]]}
    rows = [{"id": 0, "name": "r"}, {"id": 1, "name": "p"} | posed, {"id": 2, "name": "q"} | posed]
    path.write_text(json.dumps(rows))
    found = parse_class_names(str(path))
    assert (found.keypoint_names, found.skeleton) == (("x", "y"), ((0, 1),))


@pytest.mark.detectron2
@pytest.mark.parametrize("name", zoo_names())
def test_classes_of_the_zoo_are_detectron2s(name):
    from detectron2.data import MetadataCatalog

    dataset = re.search(r"[\w.-]+", str(read_config(name).get("DATASETS.TRAIN")))
    found = dataset_categories(dataset[0]) if dataset else None
    if found is None:  # an abstract base
        assert dataset is None
        return
    known = MetadataCatalog.get(dataset[0]).as_dict()
    assert list(found.thing_names) == known.get("thing_classes", []) or not found.thing_names
    if found.stuff_names:
        assert list(found.stuff_names) == known["stuff_classes"]


def test_metadata_of_cityscapes(tmp_path):
    """Things are stuff, too."""
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"thing_classes": ["car"], "stuff_classes": ["road", "car"]}))
    found = parse_class_names(str(path))
    assert (found.thing_names, found.stuff_names) == (("car",), ("road", "car"))


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "names.txt")
    with pytest.raises(ConfigError, match="a pipe or a device"):
        parse_class_names(str(tmp_path / "names.txt"))


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
    found = parse_class_names(str(path))
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
        pytest.param("a.json", b"3", "neither a COCO file", id="number"),
        pytest.param("a.json", b"{}", "has no names", id="nothing"),
        pytest.param("a.json", b'{"thing_classes": 3}', "not iterable", id="metadata"),
        pytest.param("a.json", b"[" * 100_000, "not JSON", id="deep"),
        pytest.param("a.json", b"[1.5]", "class name 0 is a number, 1.5: quote it", id="fraction"),
        pytest.param("a.json", b'["a", null]', "class name 1 is null: quote it", id="null"),
        pytest.param("a.json", b'["\\ud800"]', "surrogate pair, U[+]D800", id="surrogate"),
        pytest.param("a.json", b'{"a": 0}', "'a' is not the id of a category", id="name-to-id"),
        pytest.param("a.json", b"<html>404</html>", "is an HTML page", id="html"),
        pytest.param("a.txt", b"1\tcat", "control character, U[+]0009", id="tab"),
        pytest.param("a.txt", b"a\xe2\x80\xa8b", "control character, U[+]2028", id="line"),
        pytest.param("a.yaml", b"[yes, no]", "class name 0 is a boolean, true", id="yaml-boolean"),
        pytest.param("a.yaml", b"[2020-01-01]", 'a date, "2020-01-01"', id="yaml-date"),
        pytest.param("a.yaml", b"a: [", "is not YAML", id="yaml-broken"),
        pytest.param(
            "a.json",
            b'{"categories": [{"id": 1, "name": true}]}',
            "the name of category 1 is a boolean, true",
            id="coco-boolean",
        ),
        pytest.param(
            "a.json", b'{"categories": [{"id": 1.5, "name": "a"}]}', "1.5 is not the id", id="half"
        ),
        pytest.param(
            "a.json", b'{"categories": [{"id": 1e999, "name": "a"}]}', "inf is not the id", id="inf"
        ),
        pytest.param(
            "a.json",
            b'{"categories": [{"id": 1, "name": "a", "keypoints": ["x"], "skeleton": [[1, 2]]}]}',
            "expected keypoint indices in 0..0",
            id="skeleton",
        ),
        pytest.param("a.json", b'{"thing_classes": ["a", "a"]}', "twice: a", id="metadata-twice"),
        pytest.param("a.json", b'{"categories": [{"id": 1}]}', "not a COCO file", id="no-name"),
        pytest.param(
            "a.json",
            b'{"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}',
            "two categories with the id 1",
            id="same-id",
        ),
    ],
)
def test_refused(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        parse_class_names(str(tmp_path / name))
