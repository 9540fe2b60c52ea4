from __future__ import annotations

import pytest

from pipeline.errors import ConfigError
from pipeline.records import Categories
from pipeline.stages.keep_classes import KeepClasses
from pipeline.testing import make_result

ANIMALS = ("cat", "dog", "bird")


@pytest.mark.parametrize(
    ("names", "classes", "kept"),
    [
        pytest.param(["dog"], [0, 1, 2, 1], [1, 3], id="one class"),
        pytest.param(["bird", "cat"], [2, 1, 0], [0, 2], id="two classes: the order stays"),
        pytest.param(["dog", "dog"], [1, 0], [0], id="named twice"),
        pytest.param(["dog"], [0, 2], [], id="none there"),
        pytest.param(["cow"], [0, 1], [], id="unknown, and not checked"),
    ],
)
def test_keeps_the_named_classes(names, classes, kept):
    result = make_result(classes=classes, class_names=ANIMALS, track_ids=range(len(classes)))
    assert KeepClasses(names)(result).predictions.track_ids.tolist() == kept


@pytest.mark.parametrize(
    ("names", "classes", "class_names"),
    [
        pytest.param(["cat", "dog"], [0, 1, 0], ANIMALS, id="all are of them"),
        pytest.param(["cat"], [], ANIMALS, id="no instances"),
        pytest.param(["cat"], [], (), id="no classes"),
    ],
)
def test_returns_the_same_object_when_all_stay(names, classes, class_names):
    result = make_result(classes=classes, class_names=class_names)
    assert KeepClasses(names)(result) is result


def test_follows_a_change_of_class_names():
    stage = KeepClasses(["dog"])
    for class_names, kept in ((ANIMALS, 1), (("dog", "dog", "dog"), 3), (ANIMALS, 1)):
        result = make_result(classes=[0, 1, 2], class_names=class_names)
        assert len(stage(result).predictions) == kept


def test_numbers_are_names_too():
    digits = make_result(classes=[0, 1, 2], class_names=("0", "1", "2"))
    assert KeepClasses([0, 2])(digits).predictions.classes.tolist() == [0, 2]


@pytest.mark.parametrize("names", [[], (), "", "person", None], ids=repr)
def test_refuses_what_is_no_list_of_names(names):
    with pytest.raises(ConfigError, match=r"names: expected class names such as \[person\], got"):
        KeepClasses(names)


CATEGORIES = Categories(thing_names=ANIMALS, stuff_names=("sky", "grass", "things"))


@pytest.mark.parametrize(
    ("names", "problems"),
    [
        pytest.param(["cat", "bird"], [], id="known"),
        pytest.param(["dgo"], ["'dgo'; did you mean 'dog'?"], id="misspelt"),
        pytest.param(["xyz"], ["'xyz'; known: cat, dog, bird"], id="nothing near"),
        pytest.param(["sky"], ["'sky' (it is stuff, which has no instances)"], id="stuff"),
        pytest.param(
            ["brid", "cat", "grass", "xyz"],
            [
                "'brid'; did you mean 'bird'?",
                "'grass' (it is stuff, which has no instances)",
                "'xyz'; known: cat, dog, bird",
            ],
            id="all of them at once",
        ),
    ],
)
def test_check_names_what_the_model_lacks(names, problems):
    stage = KeepClasses(names)
    if not problems:
        assert stage.check(CATEGORIES) is None
        return
    with pytest.raises(ConfigError) as caught:
        stage.check(CATEGORIES)
    told = [f"names: the model has no class {problem}" for problem in problems]
    assert list(caught.value.problems) == told


def test_check_of_a_class_that_is_both_thing_and_stuff():
    KeepClasses(["cat"]).check(Categories(thing_names=("cat",), stuff_names=("cat",)))


def test_check_of_a_model_without_instances():
    with pytest.raises(ConfigError, match=r"has no class 'cat'$"):
        KeepClasses(["cat"]).check(Categories(stuff_names=("sky",)))
