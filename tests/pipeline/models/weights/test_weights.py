import collections
import io
import os
import pickle
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.errors import ModelCorruptError, StoreError, UntrustedModelError
from pipeline.models.weights.weights import load_weights, read_weights, strip_wrappers


class Call:
    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def tiny():
    return {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([1.0, -2.0])}


def arrays():
    return {name: value.numpy() for name, value in tiny().items()}


def pickled(path, value, protocol=2):
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


def same(found):
    return found.keys() == tiny().keys() and all(
        torch.equal(found[name], value) and found[name].dtype == value.dtype
        for name, value in tiny().items()
    )


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda d: d, id="plain"),
        pytest.param(lambda d: {"model": d, "__author__": "Detectron2 Model Zoo"}, id="zoo"),
        pytest.param(lambda d: {"model": collections.OrderedDict(d)}, id="ordered"),
        pytest.param(lambda d: {"model": {"state_dict": d}}, id="nested"),
        pytest.param(lambda d: {**d, "iteration": np.int64(3), "epoch": 2}, id="bookkeeping"),
    ],
)
def test_pkl(tmp_path, wrap, protocol):
    assert same(read_weights(pickled(tmp_path / "w.pkl", wrap(arrays()), protocol)))


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_pkl_of_any_numpy(tmp_path, core):
    data = pickle.dumps(arrays(), protocol=2).replace(b"numpy._core", b"numpy.core")
    (tmp_path / "w.pkl").write_bytes(data.replace(b"numpy.core", core.encode()))
    assert same(read_weights(tmp_path / "w.pkl"))


def test_pkl_orders(tmp_path):
    value = np.asfortranarray(np.arange(6, dtype=">f4").reshape(2, 3))
    found = read_weights(pickled(tmp_path / "w.pkl", {"a": value}))
    assert found["a"].tolist() == value.tolist()


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_torch(tmp_path, suffix, zipped):
    data = {"model": tiny(), "optimizer": {"lr": 1}, "iteration": 9}
    torch.save(data, tmp_path / f"w{suffix}", _use_new_zipfile_serialization=zipped)
    assert same(read_weights(tmp_path / f"w{suffix}"))


def test_safetensors(tmp_path):
    save_file(tiny(), tmp_path / "w.safetensors")
    assert same(read_weights(tmp_path / "w.safetensors"))


PAYLOADS = {
    "os.system": lambda s: Call(os.system, f"touch {s}"),
    "eval": lambda s: Call(eval, f"open({s!r}, 'w')"),
    "exec": lambda s: Call(exec, f"open({s!r}, 'w')"),
    "open": lambda s: Call(open, s, "w"),
    "getattr": lambda s: Call(getattr, Call(__import__, "os"), "system"),
    "torch-storage": lambda s: Call(
        torch.storage._load_from_bytes, pickle.dumps(Call(os.system, f"touch {s}"))
    ),
    "numpy-load": lambda s: Call(np.load, s),
    "nested": lambda s: {"model": {"a": [({"b": Call(os.system, f"touch {s}")},)]}},
    "in-array": lambda s: np.array([Call(os.system, f"touch {s}")], dtype=object),
    "key": lambda s: {("x", Call(os.system, f"touch {s}")): 1},
    "codec": lambda s: Call(pickle.codecs.encode, "x", "zip"),
    "ordered-dict-of-calls": lambda s: collections.OrderedDict(a=Call(os.system, f"touch {s}")),
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", PAYLOADS)
def test_malicious_pkl(tmp_path, name, protocol):
    sentinel = str(tmp_path / "sentinel")
    path = pickled(tmp_path / "w.pkl", {"model": PAYLOADS[name](sentinel)}, protocol)
    with pytest.raises(UntrustedModelError, match="asks for") as caught:
        read_weights(path)
    assert not (tmp_path / "sentinel").exists()
    if name == "os.system":
        assert "posix.system" in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("suffix", [".pth", ".bin"])
@pytest.mark.parametrize("name", ["os.system", "eval", "nested", "torch-storage", "getattr"])
def test_malicious_pth(tmp_path, name, suffix, zipped):
    sentinel = str(tmp_path / "sentinel")
    path = tmp_path / f"w{suffix}"
    data = {"model": PAYLOADS[name](sentinel)}
    torch.save(data, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        UntrustedModelError,
        match=r"asks for (posix\.system|\w+\.eval|\w+\.getattr|torch\.storage\.)",
    ):
        read_weights(path)
    assert not (tmp_path / "sentinel").exists()


def test_malicious_raw_pickle_named_pth(tmp_path):
    path = pickled(tmp_path / "w.pth", PAYLOADS["os.system"](str(tmp_path / "sentinel")))
    with pytest.raises(StoreError):
        read_weights(path)
    assert not (tmp_path / "sentinel").exists()


@pytest.mark.parametrize(
    "array",
    [
        pytest.param(np.array([{}], dtype=object), id="objects"),
        pytest.param(np.zeros(2, dtype=[("x", "f4"), ("y", "O")]), id="records"),
        pytest.param(np.zeros(2, dtype="M8[s]"), id="dates"),
    ],
)
def test_odd_arrays(tmp_path, array):
    with pytest.raises(UntrustedModelError):
        read_weights(pickled(tmp_path / "w.pkl", {"a": array}))


def test_functions_cannot_be_changed(tmp_path):
    # BUILD on what the name stands for: {"_call": 1} as its new state
    data = b"\x80\x02cnumpy\ndtype\n}U\x05_callK\x01sb."
    (tmp_path / "w.pkl").write_bytes(data)
    with pytest.raises(UntrustedModelError):
        read_weights(tmp_path / "w.pkl")
    assert same(read_weights(pickled(tmp_path / "good.pkl", arrays())))


@pytest.mark.parametrize("cut", [0, 1, 10, 0.5, -1])
@pytest.mark.parametrize("suffix", [".pkl", ".pth", ".safetensors"])
def test_truncated(tmp_path, suffix, cut):
    buffer = io.BytesIO()
    if suffix == ".pkl":
        pickle.dump(arrays(), buffer)
    elif suffix == ".pth":
        torch.save(tiny(), buffer)
    else:
        save_file(tiny(), tmp_path / "full")
        buffer.write((tmp_path / "full").read_bytes())
    raw = buffer.getvalue()
    path = tmp_path / f"w{suffix}"
    path.write_bytes(raw[: int(len(raw) * cut) if isinstance(cut, float) else cut])
    with pytest.raises(ModelCorruptError) as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize(
    ("suffix", "data"),
    [
        pytest.param(".pkl", b"hello there", id="pkl-text"),
        pytest.param(".pkl", b"\x80\x02" + b"(" * 100000, id="pkl-marks"),
        pytest.param(".pkl", b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60), id="pkl-huge"),
        pytest.param(".pkl", b"\x80\x04" + b"]" * 90 + b"a" * 89 + b".", id="pkl-deep"),
        pytest.param(".pkl", b"\x80\x02]q\x00h\x00a.", id="pkl-itself"),
        pytest.param(".pth", b"hello there", id="pth-text"),
        pytest.param(".safetensors", struct.pack("<Q", 1 << 60), id="safetensors-huge"),
    ],
)
def test_garbage(tmp_path, suffix, data):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(data)
    with pytest.raises(ModelCorruptError):
        read_weights(path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        pytest.param({}, "holds no weights", id="empty"),
        pytest.param([1], "holds no weights", id="list"),
        pytest.param({"a": "text"}, "holds a str under 'a'", id="text"),
        pytest.param({"blobs": {}}, "Caffe2", id="detectron1"),
        pytest.param({"model": {"a": 1}, "matching_heuristics": True}, "Caffe2", id="matching"),
    ],
)
def test_not_weights(tmp_path, value, message):
    with pytest.raises(ModelCorruptError, match=message):
        read_weights(pickled(tmp_path / "w.pkl", value))


def test_unreadable(tmp_path):
    with pytest.raises(StoreError, match="cannot read"):
        read_weights(tmp_path / "none.pkl")
    with pytest.raises(StoreError, match=r"\.safetensors, \.pth"):
        read_weights(tmp_path / "w.onnx")


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.cls_score = torch.nn.Linear(3, 2)
        self.norm = torch.nn.BatchNorm2d(2)
        self.register_buffer("mask", torch.tensor([0.0]))


def test_fits():
    source, target = Net(), Net()
    load_weights(target, source.state_dict(), "w")
    for name, value in source.state_dict().items():
        assert torch.equal(value, target.state_dict()[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda d: d.pop("cls_score.bias"), "1 missing: cls_score.bias", id="missing"),
        pytest.param(lambda d: d.update(extra=torch.zeros(1)), "unexpected: extra", id="extra"),
        pytest.param(
            lambda d: d.update({"cls_score.weight": torch.zeros(4, 3)}),
            r"weight is \(4, 3\) in the file, \(2, 3\) in the model; .*set model\.class_names",
            id="classes",
        ),
        pytest.param(
            lambda d: d.update({"cls_score.bias": torch.zeros(2, dtype=torch.int64)}),
            r"is \(2,\) int64 in the file, \(2,\) in the model",
            id="integers",
        ),
        pytest.param(
            lambda d: d["cls_score.bias"].fill_(float("nan")), "not numbers: cls_score", id="nan"
        ),
        pytest.param(
            lambda d: d["cls_score.bias"].fill_(float("inf")), "not numbers: cls_score", id="inf"
        ),
        pytest.param(lambda d: d["mask"].fill_(float("nan")), "not numbers: mask", id="buffer-nan"),
        pytest.param(
            lambda d: (d.clear(), d.update({f"x{i}": torch.zeros(1) for i in range(15)})),
            "15 unexpected: x0 and 14 more; no name is known",
            id="other-architecture",
        ),
    ],
)
def test_misfits(change, message):
    weights = {name: value.clone() for name, value in Net().state_dict().items()}
    change(weights)
    with pytest.raises(ModelCorruptError, match=message):
        load_weights(Net(), weights, "the weights of 'w.pth'")


@pytest.mark.parametrize(
    "prefix",
    [
        "module.", "model.", "_orig_mod.", "model.module.", "module._orig_mod.",
        "_orig_mod.module.", "model._orig_mod.module.", "module.module.",
    ],
)  # fmt: skip
def test_wrappers_names(tmp_path, prefix):
    """Of DistributedDataParallel, Lightning, torch.compile, and of them together."""
    weights = Net().state_dict()
    named = {f"{prefix}{name}": value for name, value in weights.items()}
    path = tmp_path / "w.pth"
    for data in (named, {"state_dict": named}, {"model": named, "iteration": 3}):
        torch.save(data, path)
        target = Net()
        load_weights(target, read_weights(path), "w")
        assert torch.equal(target.state_dict()["cls_score.weight"], weights["cls_score.weight"])


def test_a_compiled_part(tmp_path):
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    weights = {name.replace("0.", "0._orig_mod."): v for name, v in net.state_dict().items()}
    target = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    load_weights(target, strip_wrappers(weights, {"0.weight"}), "w")
    assert torch.equal(target[0].weight, net[0].weight)


class Wrapped(torch.nn.Module):
    """Its own names begin like a wrapper's."""

    def __init__(self):
        super().__init__()
        self.model = Net()


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_names_that_only_look_wrapped(prefix):
    weights = Wrapped().state_dict()
    target = Wrapped()
    load_weights(target, {f"{prefix}{name}": value for name, value in weights.items()}, "w")
    assert torch.equal(target.state_dict()["model.cls_score.bias"], weights["model.cls_score.bias"])


@pytest.mark.parametrize("model", ["", "module."])
@pytest.mark.parametrize("averages", ["", "module."])
def test_averages_of_wrapped_weights(tmp_path, model, averages):
    net, mean = Net().state_dict(), Net().state_dict()
    mean = {f"{averages}{name}": value for name, value in mean.items() if "mask" not in name}
    data = {"model": {f"{model}{k}": v for k, v in net.items()}, "ema_state": {"state": mean}}
    torch.save(data, tmp_path / "w.pth")
    target = Net()
    load_weights(target, read_weights(tmp_path / "w.pth", ema=True), "w")
    assert torch.equal(target.cls_score.weight, mean[f"{averages}cls_score.weight"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["bbox_head.fc_cls.weight", "backbone.conv1.weight"], "they are MMDetection's"),
        (["backbone.body.conv1.weight", "rpn.head.conv.0.0.weight"], "they are torchvision's"),
        (["model.0.conv.weight", "model.1.cv1.conv.weight"], "they are a YOLO model's"),
        (["conv1.weight", "layer1.0.conv1.weight", "fc.bias"], "they are a backbone's alone"),
        (["detr.encoder.layers.0.weight"], "they are a transformer's"),
        (["x" * 100_000], "no name is known"),
        (["\x1b[31m\n\u202e"], r"\\x1b\[31m\\n\\u202e"),
        ([f"a.very.long.name.of.some.layer.{i:060}" for i in range(1000)], "and 999 more"),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_misfits_are_short(names, message):
    with pytest.raises(ModelCorruptError, match=message) as caught:
        load_weights(Net(), {name: torch.zeros(1) for name in names}, "the weights of 'w.pth'")
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


def saved_values():
    """Tensors of every kind that checkpoints have."""
    base, tied = torch.arange(24.0).reshape(4, 6), torch.ones(3, 3)
    return {
        "base": base, "view": base[1:3, 2:5], "turned": base.t(), "tied": tied, "again": tied,
        "empty": torch.empty(0, 4), "scalar": torch.tensor(3.5), "half": torch.ones(3).half(),
        "bfloat16": torch.ones(3).bfloat16(), "double": torch.ones(2).double(),
        "int64": torch.arange(3), "int32": torch.arange(3).int(), "uint8": torch.arange(3).byte(),
        "bool": torch.tensor([True, False]), "complex": torch.ones(2, dtype=torch.complex64),
        "parameter": torch.nn.Parameter(torch.ones(2)), "expanded": torch.ones(1).expand(5),
    }  # fmt: skip


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_values_are_torchs(tmp_path, zipped, protocol):
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2])
    net.cls_score(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    model = collections.OrderedDict(saved_values())
    model._metadata = {"": {"version": 2}}
    training = {"optimizer": optimizer.state_dict(), "scheduler": schedule.state_dict()}
    torch.save(
        {"model": model, **training, "iteration": 7, "__author__": "x"},
        tmp_path / "w.pth",
        _use_new_zipfile_serialization=zipped,
        pickle_protocol=protocol,
    )
    want = torch.load(tmp_path / "w.pth", weights_only=False)["model"]
    found = read_weights(tmp_path / "w.pth")
    assert found.keys() == want.keys()
    for name, value in want.items():
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".bin"])
def test_the_content_tells_the_kind(tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    save_file(tiny(), path)
    assert same(read_weights(path))
    assert same(read_weights(pickled(path, arrays())))
    torch.save(tiny(), path)
    assert same(read_weights(path))


def test_what_changes_nothing_is_ignored():
    weights = Net().state_dict()
    del weights["norm.num_batches_tracked"]
    weights["mask"].fill_(float("-inf"))
    weights |= {
        "pixel_mean": torch.zeros(3, 1, 1),
        "pixel_std": torch.ones(3, 1, 1),
        "proposal_generator.anchor_generator.cell_anchors.0": torch.zeros(3, 4),
        "other.num_batches_tracked": torch.tensor(1),
    }
    load_weights(Net(), weights, "w")
