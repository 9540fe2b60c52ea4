import logging
import os
import warnings

import pytest

from pipeline.errors import ConfigError, UntrustedModelError
from pipeline.models.config_file import make_cfg, parse_yaml, read_config, read_plain, set_keys
from pipeline.models.zoo import zoo_names, zoo_root, zoo_url

MASK = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x"


@pytest.fixture
def cfg():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from detectron2.config import get_cfg
    return get_cfg()


@pytest.mark.detectron2
@pytest.mark.parametrize("name", zoo_names())
def test_zoo_configs_are_what_detectron2_reads(cfg, name):
    logging.disable(logging.WARNING)  # it warns about its unsafe tag
    cfg.merge_from_file(str(zoo_root() / f"{name}.yaml"))
    logging.disable(logging.NOTSET)
    assert make_cfg(read_config(name)) == cfg


@pytest.mark.detectron2
def test_zoo_urls_are_detectron2s():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from detectron2.model_zoo.model_zoo import _ModelZooUrls
    urls = {name: _ModelZooUrls.query(name) for name in zoo_names()}
    assert {name: zoo_url(name) for name in zoo_names()} == urls
    assert sum(url is not None for url in urls.values()) > 40


def test_mirror():
    assert zoo_url(MASK, "http://mirror/zoo/").startswith(f"http://mirror/zoo/{MASK}/")


@pytest.mark.parametrize("suffix", ["", ".yaml"])
def test_zoo_by_name(suffix):
    config = read_config(MASK + suffix)
    assert (config.name, config.in_zoo, config.get("MODEL.MASK_ON")) == (MASK, True, True)
    assert config.get("MODEL.META_ARCHITECTURE") == "GeneralizedRCNN"  # of the base
    assert config.get("MODEL.NOT.THERE") is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param(MASK.replace("50", "51"), "did you mean", id="near"),
        pytest.param("qqq", "neither a file nor in the model zoo", id="far"),
        pytest.param("lazy.py", "Python code, which is never run", id="python"),
    ],
)
def test_unknown(name, message):
    with pytest.raises(ConfigError, match=message):
        read_config(name)


def test_bases(write_yaml):
    write_yaml("sub/a.yaml", {"MODEL": {"MASK_ON": True, "WEIGHTS": "x"}})
    write_yaml("b.yaml", {"SEED": 3})
    bases = {"_BASE_": ["sub/a.yaml", "./b.yaml"], "MODEL": {"MASK_ON": False}}
    config = read_config(str(write_yaml("c.yaml", bases)))
    assert config.data == {"MODEL": {"MASK_ON": False, "WEIGHTS": "x"}, "SEED": 3}
    assert (config.name, config.in_zoo) == ("c.yaml", False)


@pytest.mark.parametrize("depth", ["config", "base", "base-of-base"])
@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system ['touch {sentinel}']",
        "!!python/object/new:os.system ['touch {sentinel}']",
        '!!python/object/apply:eval [\'open("{sentinel}", "w")\']',
        "!!python/name:os.system",
        "!!python/tuple [1]",
    ],
)
def test_python_tags(tmp_path, write_yaml, tag, depth):
    sentinel = tmp_path / "sentinel"
    names = ["evil.yaml", "middle.yaml", "top.yaml"]
    write_yaml(names[0], "MODEL: " + tag.format(sentinel=sentinel))
    write_yaml(names[1], {"_BASE_": names[0]})
    write_yaml(names[2], {"_BASE_": names[1]})
    chosen = names[["config", "base", "base-of-base"].index(depth)]
    with pytest.raises(UntrustedModelError, match=r"evil\.yaml, line 1: the tag !!python/"):
        read_config(str(tmp_path / chosen))
    assert not sentinel.exists()


@pytest.mark.parametrize(
    "base",
    [
        "http://127.0.0.1:9/x.yaml", "https://127.0.0.1:9/x.yaml", "file:///etc/x.yaml", "~/x.yaml",
        "/etc/x.yaml", "../../etc/hosts", "text.txt", "pipe.yaml", "folder.yaml", "none.yaml", "",
        ".", "..", 5, None, {"a": 1}, [["a.yaml"]], "\0.yaml", "../" * 3000 + "x.yaml",
    ],
    ids=lambda base: ascii(base)[:20],
)  # fmt: skip
def test_bases_refused(tmp_path, write_yaml, monkeypatch, base):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("it used the network"))
    path = write_yaml("inner/c.yaml", {"_BASE_": base})
    write_yaml("inner/text.txt", {"SEED": 1})
    (tmp_path / "inner/folder.yaml").mkdir()
    os.mkfifo(tmp_path / "inner/pipe.yaml")
    with pytest.raises(ConfigError, match="_BASE_"):
        read_config(str(path))


@pytest.mark.parametrize(
    "base", ["../base.yaml", "./../base.yml", "sub/../../base.yaml", "link.yaml"]
)
def test_bases_relative_to_a_config_path(tmp_path, write_yaml, base):
    for name in ("base.yaml", "base.yml"):
        write_yaml(name, {"SEED": 1})
    path = write_yaml("inner/c.yaml", {"_BASE_": base})
    (tmp_path / "inner/sub").mkdir()
    (tmp_path / "inner/link.yaml").symlink_to("../base.yaml")
    assert read_config(str(path)).data == {"SEED": 1}


@pytest.mark.parametrize(
    "base",
    [
        "../Base-RCNN-FPN.yaml", "../../../configs/Base-RCNN-FPN.yaml", "Base-RCNN-FPN.yaml",
        f"{MASK}.yaml", f"detectron2/model_zoo/configs/{MASK}.yaml",
    ],
)  # fmt: skip
def test_bases_of_the_zoo(write_yaml, base):
    config = read_config(str(write_yaml("a/b/c.yaml", {"_BASE_": base, "SEED": 3})))
    assert config.get("MODEL.BACKBONE.NAME") == "build_resnet_fpn_backbone"
    assert config.get("SEED") == 3
    assert config.in_zoo is False


def test_local_base_overrides_the_zoos(write_yaml):
    write_yaml("Base-RCNN-FPN.yaml", {"SEED": 7})
    path = write_yaml("a/c.yaml", {"_BASE_": "../Base-RCNN-FPN.yaml"})
    assert read_config(str(path)).data == {"SEED": 7}


@pytest.mark.parametrize("base", ["base.yaml", "Base-RCNN-FPN.yaml", []])
def test_saved_config_has_no_base(write_yaml, base):
    write_yaml("base.yaml", {"SEED": 1})
    with pytest.raises(ConfigError, match="must be complete"):
        read_plain(write_yaml("config.yaml", {"_BASE_": base}))


def test_too_many_bases(write_yaml):
    """Nine bases each, ten levels deep, would be three billion files."""
    for level in range(10):
        write_yaml(f"{level}.yaml", {"_BASE_": [f"{level + 1}.yaml"] * 9})
    path = write_yaml("10.yaml", {"SEED": 1}).with_name("0.yaml")
    with pytest.raises(ConfigError, match="more than 64 bases"):
        read_config(str(path))


@pytest.mark.parametrize("length", [1, 2, 3])
def test_loops(tmp_path, write_yaml, length):
    for i in range(length):
        write_yaml(f"{i}.yaml", {"_BASE_": f"{(i + 1) % length}.yaml"})
    with pytest.raises(ConfigError, match="includes itself"):
        read_config(str(tmp_path / "0.yaml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "has no settings", id="empty"),
        pytest.param("- 1", "has no settings", id="list"),
        pytest.param("a: [", "not valid YAML", id="broken"),
        pytest.param("1: 2", "expected text as a key, got 1", id="number-key"),
        pytest.param("a: {1: 2}", "expected text as a key, got 1", id="nested-number-key"),
        pytest.param("a: !mine 3", "line 1.*mine", id="unknown-tag"),
        pytest.param("a: " + "[" * 5000, "not valid YAML", id="deep"),
        pytest.param("a: \x00", "not valid YAML", id="nul"),
    ],
)
def test_bad_yaml(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_yaml(text, "x.yaml")


def test_group_over_value(write_yaml):
    write_yaml("a.yaml", {"MODEL": 1})
    path = write_yaml("b.yaml", {"_BASE_": "a.yaml", "MODEL": {"MASK_ON": True}})
    with pytest.raises(ConfigError, match="'MODEL' is a group of settings here and a value"):
        read_config(str(path))


def test_not_utf8(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"a: \xff\xff")
    with pytest.raises(ConfigError, match="cannot read the config"):
        read_config(str(tmp_path / "a.yaml"))


@pytest.mark.detectron2
def test_all_unknown_keys_are_listed(write_yaml):
    path = write_yaml("a.yaml", {"MODEL": {"MASK_ONN": True, "DEVICE": 3}, "SEEED": 1})
    with pytest.raises(ConfigError) as caught:
        make_cfg(read_config(str(path)))
    assert len(caught.value.problems) == 3
    assert "'MODEL.MASK_ONN'; did you mean 'MODEL.MASK_ON'" in str(caught.value)
    assert "'MODEL.DEVICE': expected a value like 'cuda' (str), got 3" in str(caught.value)


@pytest.mark.detectron2
def test_old_version(write_yaml):
    with pytest.raises(ConfigError, match="has version 1"):
        make_cfg(read_config(str(write_yaml("a.yaml", {"VERSION": 1}))))


@pytest.mark.detectron2
@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        pytest.param("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 1, 1.0, id="int-for-float"),
        pytest.param("INPUT.MIN_SIZE_TEST", 640, 640, id="int"),
        pytest.param("MODEL.PIXEL_MEAN", [1.0, 2.0, 3.0], [1.0, 2.0, 3.0], id="list"),
        pytest.param("MODEL.RESNETS.DEPTH", "18", 18, id="text-for-int"),
    ],
)
def test_set(cfg, key, value, expected):
    set_keys(cfg, {key: value}, "opts")
    *parents, last = key.split(".")
    for parent in parents:
        cfg = cfg[parent]
    assert cfg[last] == expected


@pytest.mark.detectron2
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        pytest.param("MODEL.ROI_HEAD.X", 1, "'MODEL.ROI_HEAD'; did you mean", id="parent"),
        pytest.param("MODEL", 1, "'MODEL' is a group", id="group"),
        pytest.param("SEED.X", 1, "no key 'SEED.X'", id="below-a-value"),
        pytest.param("SEED", "many", "expected a value like -1", id="type"),
        pytest.param("_BASE_", "x", "no key '_BASE_'", id="base"),
    ],
)
def test_set_refused(cfg, key, value, message):
    with pytest.raises(ConfigError, match=message):
        set_keys(cfg, {key: value}, "opts")
