import builtins
import copyreg
import os
import pickle
import struct

import cloudpickle
import pytest
from detectron2.config import CfgNode, get_cfg

from pipeline.errors import ModelCorruptError, UntrustedModelError
from pipeline.models.weights import opcodes, unpickle
from pipeline.models.weights.unpickle import load_config
from pipeline.models.weights.weights import read_weights

VALUES = {
    "text": "ü" * 300,
    "numbers": [0, 255, 256, 70000, -1, 1 << 80, -(1 << 3000), 1.5, True, False, None],
    "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), ("a", ["b", ("c",)])),
    "lists": [[], [[]], list(range(2000))],
    3: {"a": {}, 1.5: "x", None: "none", "": 0},
}


class Call:
    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


CFG = b"cyacs.config\nCfgNode\n"


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def written(path, value):
    path.write_bytes(value if isinstance(value, bytes) else pickle.dumps(value, protocol=4))
    return path


@pytest.fixture
def file(tmp_path):
    return tmp_path / "custom_objects.pkl"


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values(file, protocol):
    assert load_config(written(file, pickle.dumps(VALUES, protocol=protocol))) == VALUES


@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps])
@pytest.mark.parametrize("frozen", [True, False])
def test_config(file, dumps, frozen):
    cfg = get_cfg()
    cfg.freeze() if frozen else cfg.defrost()
    found = load_config(written(file, dumps({"config": cfg, "x": [cfg.MODEL, 1]}, protocol=4)))
    assert found == {"config": cfg, "x": [cfg.MODEL, 1]}
    nodes = [found["config"], found["config"]["MODEL"], found["x"][0]]
    assert [type(node) for node in nodes] == [dict] * 3
    assert type(found["config"]["DATASETS"]["TRAIN"]) is tuple
    found["x"][0]["DEVICE"] = "other"  # dicts are not shared
    assert found["config"]["MODEL"]["DEVICE"] == cfg.MODEL.DEVICE


@pytest.mark.parametrize(
    "module",
    ["detectron2.config", "detectron2.config.config", "fvcore.common.config", "yacs.config"],
)
def test_every_cfg_node(file, module):
    data = b"\x80\x02c%b\nCfgNode\n)\x81%bK\x01s." % (module.encode(), text("a"))
    assert load_config(written(file, data)) == {"a": 1}


def test_state_is_ignored(file):
    found = load_config(written(file, b"\x80\x02" + CFG + b")\x81}" + text("update") + b"K\x01sb."))
    assert type(found) is dict
    assert found == {}


def lambda_of(sentinel):
    return cloudpickle.loads(cloudpickle.dumps(lambda: sentinel))


MALICIOUS = {
    "system": (lambda s: Call(os.system, f"touch {s}"), r"posix\.system"),
    "eval": (lambda s: Call(eval, f"open({s!r}, 'w')"), r"builtins\.eval"),
    "nested": (lambda s: {"a": [({"b": Call(os.system, f"touch {s}")},)]}, r"posix\.system"),
    "in-config": (lambda s: CfgNode({}) | {"a": Call(os.system, f"touch {s}")}, r"posix\.system"),
    "key": (lambda s: {Call(os.system, f"touch {s}"): 1}, r"posix\.system"),
    "lambda": (lambda_of, r"cloudpickle\.\w+"),
    "class": (lambda s: os.system, r"posix\.system"),
    "dotted": (lambda s: Call(getattr, Call(__import__, "os"), "system"), r"builtins\.getattr"),
    "dict-subclass": (lambda s: builtins.type("T", (), {}), r"cloudpickle\.\w+"),
    "set": (lambda s: {1, 2}, "a set"),
    "cfg-node-class": (lambda s: CfgNode, "a type"),
    "bytes": (lambda s: b"x", "BINBYTES"),
    "array": (lambda s: __import__("numpy").zeros(2), r"numpy\."),
    "tuple-key": (lambda s: {(1, 2): 3}, "neither text nor a number"),
}


@pytest.mark.parametrize("name", MALICIOUS)
def test_refused(tmp_path, file, name):
    make, message = MALICIOUS[name]
    value = {"config": CfgNode({"A": 1}), "x": make(tmp_path / "sentinel")}
    with pytest.raises(UntrustedModelError, match=f"requires .*{message}.*--trust"):
        load_config(written(file, cloudpickle.dumps(value, protocol=4)))
    assert not (tmp_path / "sentinel").exists()


@pytest.mark.parametrize(
    ("opcodes", "message"),
    [
        pytest.param(b"cos\nsystem\n" + text("true") + b"\x85R.", "os.system", id="reduce"),
        pytest.param(b"(" + text("true") + b"ios\nsystem\n.", "os.system", id="inst"),
        pytest.param(b"(cos\nsystem\n" + text("true") + b"o.", "os.system", id="obj"),
        pytest.param(CFG + b"(tR.", "opcode REDUCE", id="calls-cfg-node"),
        pytest.param(CFG + b"K\x01\x85\x81.", "construction of an object", id="arguments"),
        pytest.param(b"K\x01)\x81.", "construction of an object", id="not-a-class"),
        pytest.param(b"Pid\n.", "opcode PERSID", id="persid"),
        pytest.param(b"K\x01Q.", "opcode BINPERSID", id="binpersid"),
        pytest.param(b"\x82\x01.", "opcode EXT1", id="extension"),
        pytest.param(
            CFG + b"}" + text("a") + b"K\x01sb.", "change of a function", id="build-on-the-class"
        ),
        pytest.param(b"c__main__\nCfgNode\n.", "__main__.CfgNode", id="other-cfg-node"),
    ],
)
def test_refused_opcodes(file, opcodes, message):
    with pytest.raises(UntrustedModelError, match=message):
        load_config(written(file, b"\x80\x04" + opcodes))


@pytest.mark.parametrize("read", [read_weights, load_config])
def test_extension_codes(tmp_path, file, read):
    copyreg.add_extension("posix", "system", 1)
    try:
        pickle.loads(b"\x80\x02\x82\x01.")  # now it is in a cache that is read first
        call = b"\x80\x02\x82\x01" + text(f"touch {tmp_path}/s") + b"\x85R."
        with pytest.raises(UntrustedModelError):
            read(written(file, call))
    finally:
        copyreg.remove_extension("posix", "system", 1)
    assert not (tmp_path / "s").exists()


def laughs(make, levels=60):
    value = make("ha", "ha")
    for _ in range(levels):
        value = make(value, value)
    return pickle.dumps({"config": value}, protocol=4)


def itself():
    value = []
    value.append(value)
    return pickle.dumps(value)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("read", [read_weights, load_config])
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(laughs(lambda a, b: [a, b], 28), id="lists"),
        pytest.param(laughs(lambda a, b: (a, b), 28), id="tuples"),
        pytest.param(laughs(lambda a, b: {"a": a, "b": b}, 28), id="dicts"),
        pytest.param(laughs(lambda a, b: [a, b]), id="deep"),
        pytest.param(b"\x80\x04" + b"]" * 9999 + b"a" * 9998 + b".", id="nested"),
        pytest.param(itself(), id="itself"),
    ],
)
def test_bombs(file, read, data, monkeypatch):
    monkeypatch.setattr(opcodes, "MAX_VALUES", 20_000)
    monkeypatch.setattr(unpickle, "MAX_VALUES", 20_000)
    with pytest.raises(ModelCorruptError, match=r"too (many|deeply)"):
        read(written(file, data))


@pytest.mark.timeout(20)
def test_hash_bomb(file):
    shared = (
        b")" + b"\x94h\x00\x86" + b"".join(b"\x94h" + bytes([i]) + b"\x86" for i in range(1, 60))
    )
    with pytest.raises(UntrustedModelError, match="a key"):
        load_config(written(file, b"\x80\x04}" + shared + b"K\x01s."))


def test_large(file):
    file.write_bytes(pickle.dumps({"config": {}, "x": "a" * (5 << 20)}))
    with pytest.raises(UntrustedModelError, match="more than 4 MiB"):
        load_config(file)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"hello there", id="text"),
        pytest.param(pickle.dumps(VALUES)[:-9], id="cut"),
        pytest.param(pickle.dumps([1]), id="list"),
        pytest.param(b"\x80\x04N.", id="none"),
        pytest.param(b"\x80\x04.", id="nothing"),
        pytest.param(b"\x80\x04a.", id="underflow"),
        pytest.param(b"\x80\x04u.", id="no-mark"),
        pytest.param(b"\x80\x04}(K\x01u.", id="odd"),
        pytest.param(b"\x80\x04)K\x01a.", id="append-to-tuple"),
        pytest.param(b"\x80\x04K\x01K\x02\x93.", id="name-of-numbers"),
        pytest.param(b"\x80\x04j\xff\xff\xff\xff.", id="no-memo"),
        pytest.param(b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60), id="huge"),
    ],
)
def test_broken(file, data):
    with pytest.raises((ModelCorruptError, UntrustedModelError)):
        load_config(written(file, data))


def test_huge_memo_costs_nothing(file):
    assert load_config(written(file, b"\x80\x04}r\xff\xff\xff\x7f.")) == {}
