import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from tiny_model import CLASS_NAMES, tiny_cfg

from pipeline.errors import ModelExistsError
from pipeline.models import architectures
from pipeline.models.weights.weights import read_weights
from pipeline.records import Categories
from pipeline.store import ModelStore
from pipeline.store.api import checks
from pipeline.store.command.cli import main
from pipeline.store.command.display import show
from pipeline.store.disk import lookup
from pipeline.store.disk.info import sealed
from pipeline.system.files import sha256_file

ROOT = Path(__file__).parents[4]


@dataclass
class Said:
    status: int
    out: str
    err: str

    @property
    def rows(self):
        return json.loads(self.out)


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(lookup, "BUNDLED", tmp_path / "bundled")
    return ModelStore(tmp_path / "root")


@pytest.fixture
def cli(store, capsys):
    handler = signal.getsignal(signal.SIGTERM)

    def run(*arguments, root=store.root):
        with warnings.catch_warnings():
            try:
                status = main(["--root", str(root), *map(str, arguments)])
            except SystemExit as exc:
                status = exc.code
            finally:
                signal.signal(signal.SIGTERM, handler)
        return Said(status, *capsys.readouterr())

    return run


@pytest.fixture
def put(store, monkeypatch):
    # these tests save no real model, so it cannot run
    monkeypatch.setattr(checks, "load_runnable", lambda *_: nullcontext())

    def put(tag, **more):
        given = {"config_yaml": "A: 1", "categories": Categories(thing_names=("x",))}
        return store.save(tag, **(given | {"weights": {"a": torch.ones(64)}} | more))

    return put


def command(root, *arguments):
    return [sys.executable, "-m", "pipeline.store", "--root", str(root), *map(str, arguments)]


def run(root, *arguments, **options):
    done = subprocess.run(
        command(root, *arguments),
        cwd=ROOT,
        text=True,
        check=False,
        timeout=60,
        **({"stdin": subprocess.DEVNULL, "stderr": subprocess.PIPE} | options),
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert "Exception ignored" not in done.stderr, done.stderr
    return done


def many_models(store, put, number):
    """Copies of one model with different tags."""
    first = put("m0:v1", labels={"team": "vision"})
    for i in range(1, number):
        folder = store.root / f"m{i // 2}" / f"v{i % 2 + 2}"
        folder.mkdir(parents=True, exist_ok=True)
        info = dict(first.info) | {"name": folder.parent.name, "version": folder.name}
        info.pop("digest")
        (folder / "model.yaml").write_bytes(sealed(info))
        for file in info["files"]:
            (folder / file).hardlink_to(first.path / file)
    return number


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def answer(monkeypatch):
    """Type at a terminal."""
    opened = []

    def typed(text):
        master, slave = pty.openpty()
        stdin = open(slave, encoding="utf-8")  # noqa: PTH123, SIM115 - a descriptor
        opened.extend((stdin, os.fdopen(master, "wb", buffering=0)))
        opened[-1].write(text.encode())
        monkeypatch.setattr(sys, "stdin", stdin)

    yield typed
    for file in opened:
        file.close()


# The first commands of a new user.


@pytest.mark.parametrize("arguments", [["--help"], *([c, "--help"] for c in (
    "list", "get", "save", "delete", "export", "import", "verify", "prune", "alias"
))])  # fmt: skip
def test_help(cli, arguments):
    said = cli(*arguments)
    assert said.status == 0
    assert said.out.startswith("usage: python -m pipeline.store")
    assert said.err == ""


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param([], id="no command"),
        pytest.param(["nonsense"], id="unknown command"),
        pytest.param(["list", "--nonsense"], id="unknown option"),
        pytest.param(["list", "-o", "xml"], id="unknown output"),
        pytest.param(["list", "a", "b"], id="too many"),
        pytest.param(["get"], id="too few"),
        pytest.param(["delete"], id="nothing to delete"),
        pytest.param(["delete", ",", "-y"], id="only a comma"),
        pytest.param(["list", "../x"], id="list climbs"),
        pytest.param(["export", "crack", "x.zip", "tar.gz"], id="another suffix"),
        pytest.param(["export", "crack", "x", "zip", "--format", "tar"], id="two formats"),
        pytest.param(["save", "crack"], id="save without a config"),
        pytest.param(["save", "crack", "--config", "x"], id="save without weights"),
        pytest.param(["export", "crack", "--format", "rar"], id="format"),
        pytest.param(["list", "-l", "team"], id="no label"),
        pytest.param(["list", "-l", "=vision"], id="no key"),
        pytest.param(["list", "-l", ""], id="empty label"),
        pytest.param(["get", "../x"], id="climbs"),
        pytest.param(["get", "crack:../v1"], id="version climbs"),
        pytest.param(["get", "/etc/passwd"], id="absolute"),
        pytest.param(["get", ""], id="empty tag"),
        pytest.param(["get", "crack:"], id="empty version"),
        pytest.param(["get", "a:b:c"], id="two colons"),
        pytest.param(["delete", "../x", "--yes"], id="delete climbs"),
        pytest.param(["verify", "../x"], id="verify climbs"),
        pytest.param(["export", "../x"], id="export climbs"),
        pytest.param(["alias", "crack", "../x"], id="alias climbs"),
        pytest.param(["alias", "crack", "latest"], id="alias latest"),
        pytest.param(["alias", "crack"], id="alias of nothing"),
        pytest.param(["alias", "-d", "crack:v1", "v1"], id="alias removed twice"),
        pytest.param(["import", "/nowhere"], id="import nothing"),
    ],
)
def test_wrong_use(cli, put, store, arguments):
    put("crack:v1")
    before = tree(store.root)
    said = cli(*arguments)
    assert said.status == 2
    assert said.out == ""
    assert said.err
    assert tree(store.root) == before


GOOD_SAVE = {
    "--config": "COCO-Detection/faster_rcnn_R_50_FPN_3x",
    "--weights": "random",
    "--class-names": "a,b",
}


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("crack", {"--config": "nonsense"}, "config 'nonsense' is neither a file nor"),
        ("crack", {"--weights": "no.pth"}, "no such file: 'no.pth'"),
        ("crack", {"--class-names": "no.txt"}, "cannot read 'no.txt'"),
        ("crack", {"-l": "pair"}, "expected KEY=VALUE, as in team=vision, got 'pair'"),
        ("crack", {"-m": "pair"}, "expected KEY=VALUE, as in team=vision, got 'pair'"),
        ("crack!", {}, "got 'crack!'"),
        ("../crack", {}, "got '../crack'"),
        ("crack:../v1", {}, "got '../v1'"),
        ("crack:latest", {}, "got 'latest'"),
    ],
)
def test_wrong_save(cli, store, monkeypatch, name, more, message):
    monkeypatch.setattr(architectures, "build", lambda *_: pytest.fail("only after all checks"))
    words = [word for pair in (GOOD_SAVE | more).items() for word in pair]
    said = cli("save", name, *words)
    assert said.status == 2
    assert message in said.err
    assert not store.root.exists()


def test_save_of_a_version_that_is_there(cli, put, monkeypatch):
    put("crack:v1")
    monkeypatch.setattr(architectures, "build", lambda *_: pytest.fail("only after all checks"))
    said = cli("save", "crack:v1", *(word for pair in GOOD_SAVE.items() for word in pair))
    assert said.status == 1
    assert "the version 'crack:v1' already exists" in said.err


def test_an_empty_store(cli, store):
    for arguments in (["list"], ["verify"]):
        said = cli(*arguments)
        assert (said.status, said.out) == (0, f"no models in {store.root}\n")
        assert cli(*arguments, "-o", "json").rows == []
        assert cli(*arguments, "-o", "path").out == ""
    assert not store.root.exists()


@pytest.mark.parametrize("output", ["table", "json", "yaml", "path"])
def test_list_of_an_unknown_name(cli, put, store, output):
    said = cli("list", "crack", "-o", output)
    assert (said.status, said.out) == (1, "")
    assert said.err == f"no model 'crack' in {store.root}\n"
    put("crack:v1", labels={"team": "vision"})
    said = cli("list", "carck", "-o", output)
    assert (said.status, said.out) == (1, "")
    assert "no model 'carck'" in said.err
    assert "did you mean 'crack'?" in said.err
    assert cli("list", "crack", "-l", "team=other", "-o", output).status == 0


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["list"], 0, "no models in"),
        (["get", "crack"], 1, "no model 'crack' in"),
        (["verify"], 0, "no models in"),
        (["prune"], 0, "0 leftovers removed"),
        (["import", "."], 1, "cannot import '.': "),
    ],
)
def test_a_root_that_is_a_file(cli, tmp_path, arguments, status, said):
    file = tmp_path / "file"
    file.write_text("text")
    found = cli(*arguments, root=file)
    assert (found.status, file.read_text()) == (status, "text")
    assert said in found.out + found.err


@pytest.mark.parametrize(
    "arguments", [["alias", "crack", "a"], ["delete", "crack:v1", "-y"], ["import", "."]]
)
def test_no_permission(cli, put, store, arguments):
    path = put("crack:v1").path
    places = (path, path.parent, store.root)
    for place in places:
        place.chmod(0o500)
    try:
        if os.access(path, os.W_OK):
            pytest.skip("root may write everywhere")
        said = cli(*arguments)
        assert said.status == 1
        assert re.match("cannot (write|delete|import) .*: Permission denied", said.err)
        assert cli("list").status == 0
        assert cli("verify").status == 0
        assert cli("prune").status == 0
    finally:
        for place in places:
            place.chmod(0o700)
    assert cli("verify", "crack:v1").status == 0


def test_unreadable_files(cli, put, monkeypatch):
    put("crack:v1")
    put("other:v1")

    def refuse(path):
        if "crack" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return sha256_file(path)

    monkeypatch.setattr("pipeline.store.disk.version.sha256_file", refuse)
    said = cli("verify")
    assert said.status == 1
    assert "Permission denied" in said.err
    assert "other:v1: 2 files intact" in said.out


# list and get


def test_list(cli, put, store):
    put("crack:v1", labels={"team": "vision", "line": "3"})
    put("crack:v2")
    put("spall:v1", labels={"team": "vision"})
    store.alias("crack:v1", "production")
    lines = [line.split() for line in cli("list").out.splitlines()]
    assert lines[0] == ["tag", "aliases", "labels", "size", "created"]
    assert [line[0] for line in lines[1:]] == ["crack:v1", "crack:v2", "spall:v1"]
    assert lines[1][1:4] == ["production", "team=vision,", "line=3"]
    assert lines[2][1] == "latest"
    rows = cli("list", "-o", "json").rows
    assert [row["aliases"] for row in rows] == [["production"], ["latest"], ["latest"]]
    assert rows == yaml.safe_load(cli("list", "-o", "yaml").out)
    assert rows[0] == {
        "tag": "crack:v1",
        "module": "pipeline.store",
        "aliases": ["production"],
        "kind": "predictor",
        "labels": {"team": "vision", "line": "3"},
        "size": store.get("crack:v1").size,
        "creation_time": store.get("crack:v1").info.created,
        "created": store.get("crack:v1").info.created,
        "path": str(store.root / "crack" / "v1"),
    }
    assert cli("list", "-o", "path").out.split() == [row["path"] for row in rows]
    assert [row["tag"] for row in cli("list", "crack", "-o", "json").rows] == [
        "crack:v1",
        "crack:v2",
    ]


@pytest.mark.parametrize("first", ["tokyo", "utc"])
def test_order_is_by_time_in_any_zone(cli, put, first):
    tokyo = timezone(timedelta(hours=9))
    times = {
        "tokyo": datetime(2026, 1, 2, 3, 0, tzinfo=tokyo),  # 18:00 on the previous day in UTC
        "utc": datetime(2026, 1, 1, 20, 0, tzinfo=timezone.utc),
    }
    for version in sorted(times, key=lambda version: version != first):
        put(f"crack:{version}", created=times[version])
    rows = cli("list", "-o", "json").rows
    assert [(row["tag"], row["aliases"]) for row in rows] == [
        ("crack:tokyo", []),
        ("crack:utc", ["latest"]),
    ]
    assert cli("get", "crack", "-o", "json").rows["version"] == "utc"


@pytest.mark.parametrize(
    ("labels", "tags"),
    [
        (["team=vision"], ["crack:v1", "crack:v2"]),
        (["team=vision", "line=3"], ["crack:v1"]),
        (["team=vision", "line=4"], []),
        (["eq=a=b"], ["spall:v1"]),
        (["team="], ["spall:v1"]),
        (["vision=team"], []),
        ([], ["crack:v1", "crack:v2", "spall:v1"]),
    ],
)
def test_label_filters(cli, put, labels, tags):
    put("crack:v1", labels={"team": "vision", "line": "3"})
    put("crack:v2", labels={"team": "vision"})
    put("spall:v1", labels={"eq": "a=b", "team": ""})
    options = [word for label in labels for word in ("-l", label)]
    assert [row["tag"] for row in cli("list", *options, "-o", "json").rows] == tags


def test_own_and_bundled_models_with_the_same_name(cli, put, store):
    bundled = ModelStore(lookup.BUNDLED)
    bundled.save("shapes:v1", config_yaml="A: 1", weights={}, categories=Categories(("x",)))
    assert cli("get", "shapes", "-o", "json").rows["version"] == "v1"
    put("shapes:v2")
    assert cli("get", "shapes", "-o", "json").rows["version"] == "v2"
    rows = cli("list", "-o", "json").rows
    assert {row["tag"]: row["aliases"] for row in rows} == {
        "shapes:v1": [],
        "shapes:v2": ["latest"],
    }
    for arguments in (["delete", "shapes:v1", "-y"], ["alias", "shapes:v1", "x"]):
        said = cli(*arguments)
        assert said.status == 1
        assert "comes with d2run" in said.err


def test_get(cli, put):
    entry = put("crack:v1", labels={"team": "vision"}, metadata={"map": 0.5, "notes": ["ü", "😀"]})
    known = yaml.safe_load(cli("get", "crack").out)
    own = dict(entry.info) | {"path": str(entry.path), "context": known["context"]}
    assert known | own == known
    assert known["context"].items() >= entry.info["context"].items()
    assert yaml.safe_load(cli("get", "crack", "-o", "yaml").out) == known
    assert cli("get", "crack", "-o", "json").rows == known
    assert cli("get", "crack", "-o", "path").out == f"{entry.path}\n"
    assert "crack:v1" in cli("get", "crack", "-o", "table").out


def test_upper_case_becomes_lower_case(cli, put):
    entry = put("crack:v1")
    said = cli("get", "Crack:V1", "-o", "path")
    assert said.out == f"{entry.path}\n"
    assert "the tag 'Crack:V1' is converted to lower case: 'crack:v1'" in said.err


BENTO_KEYS = """
import json, sys, warnings
warnings.simplefilter("ignore")
from bentoml._internal.models.model import ModelContext, ModelInfo
from bentoml import Tag
signatures = {"__call__": {"batchable": True}, "forward": {"batchable": False}}
context = ModelContext(framework_name="detectron2", framework_versions={"detectron2": "0"})
info = ModelInfo(
    Tag("crack", "v1"), "bentoml.detectron", {"team": "vision"}, {}, {"map": 0.5}, context,
    signatures, "v1",
)
json.dump(info.to_dict(), sys.stdout, default=str)
"""


def test_get_has_the_keys_of_bentoml(cli, put):
    if find_spec("bentoml") is None:  # not imported here: it sets up logging for the process
        pytest.skip("the extra 'bentoml' is not installed")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BENTO_KEYS],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    theirs = json.loads(done.stdout)
    put(
        "crack:v1",
        labels={"team": "vision"},
        metadata={"map": 0.5},
        signatures={"__call__": {"batchable": True}, "forward": {"batchable": False}},
    )
    ours = cli("get", "crack", "-o", "json").rows
    assert list(ours)[: len(theirs)] == list(theirs)  # in BentoML's order
    for key in ("name", "version", "labels", "metadata", "signatures", "api_version"):
        assert ours[key] == theirs[key]
    assert ours["context"].keys() >= theirs["context"].keys()
    assert ours["context"]["framework_name"] == "detectron2"
    assert ours["options"] == {"partial_kwargs": {}}
    assert datetime.fromisoformat(ours["creation_time"]).tzinfo


def test_json_is_always_valid(capsys):
    day = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
    values = {
        "numbers": (float("nan"), float("inf"), -0.5, 10**60),
        "bytes": b"\xff\x00",
        "dates": [day, day.date()],
        1: {True: {None: {2.5: "nested"}}},
        "rest": [None, True, "\x7f"],
    }
    show(values, "json")
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found == {
        "numbers": ["NaN", "Infinity", -0.5, 10**60],
        "bytes": "/wA=",
        "dates": ["2026-01-31T12:00:00+00:00", "2026-01-31"],
        "1": {"true": {"null": {"2.5": "nested"}}},
        "rest": [None, True, "\x7f"],
    }
    show(values, "yaml")
    assert yaml.safe_load(capsys.readouterr().out)["dates"] == [day, day.date()]


@pytest.mark.parametrize(
    ("tag", "version"),
    [
        ("crack", "2026-b"), ("crack:latest", "2026-b"), ("crack:2026-a", "2026-a"),
        ("crack:2026-b", "2026-b"), ("crack:2025", "2025-a"), ("crack:2", None),
        ("crack:2026-", None), ("crack:production", "2025-a"), ("crack:prod", None),
    ],
)  # fmt: skip
def test_tags(cli, put, store, tag, version):
    for known in ("2025-a", "2026-a", "2026-b"):
        put(f"crack:{known}")
    store.alias("crack:2025", "production")
    said = cli("get", tag, "-o", "path")
    assert said.status == (version is None)
    assert said.out == (f"{store.root}/crack/{version}\n" if version else "")
    assert bool(said.err) == (version is None)


@pytest.mark.parametrize("verb", ["get", "delete", "export", "verify", "alias"])
@pytest.mark.parametrize(
    ("tag", "hint"),
    [
        ("carck", "did you mean 'crack'?"),
        ("crack:v2", "did you mean 'crack:v1'?"),
        ("xyz", "known: "),
    ],
)
def test_did_you_mean(cli, put, tmp_path, verb, tag, hint):
    put("crack:v1")
    more = {"delete": ["-y"], "alias": ["a"], "export": [tmp_path]}.get(verb, [])
    said = cli(verb, tag, *more)
    assert said.status == 1
    assert f"no model '{tag}'" in said.err
    assert hint in said.err


HARMFUL = "a\x1b[31m\r\n\x9b2J\x07\x00b\u2028\u202e\udcff\x7fü😀"


def test_control_characters_are_escaped(cli, put, store):
    put("crack:v1", labels={HARMFUL: HARMFUL}, metadata={"x": HARMFUL})
    said = cli("list")
    row = said.out.splitlines()[1]
    assert row.startswith("crack:v1")
    assert "ü😀" in row
    assert [c for c in said.out if not c.isprintable() and c != "\n"] == []
    for output in ("json", "yaml"):
        environment = os.environ | {"PYTHONIOENCODING": "utf-8"}
        for arguments in (["get", "crack"], ["list"]):
            done = run(
                store.root, *arguments, "-o", output, stdout=subprocess.PIPE, env=environment
            )
            assert done.returncode == 0
            assert set(re.findall(r"[\x00-\x1f\x7f-\x9f]", done.stdout)) == {"\n"}
            read = json.loads if output == "json" else yaml.safe_load
            found = read(done.stdout)
            found = found if isinstance(found, dict) else found[0]
            assert found["labels"] == {HARMFUL: HARMFUL}
    assert cli("list", "-l", f"{HARMFUL}={HARMFUL}").out == said.out
    assert "\x1b" not in cli("list", "-l", "\x1b[31m").err


@pytest.mark.parametrize(("damaged", "sound"), [("v1", "v2"), ("v2", "v1")])
def test_damaged_model_is_skipped_in_the_list(cli, put, store, damaged, sound):
    for tag in ("crack:v1", "crack:v2", "other:v1"):
        put(tag)
    flip(store.root / "crack" / damaged / "model.yaml")
    said = cli("list", "-o", "json")
    assert said.status == 0
    assert [row["tag"] for row in said.rows] == [f"crack:{sound}", "other:v1"]
    message = f"warning: skipped: '{store.root}/crack/{damaged}/model.yaml' is damaged; "
    assert said.err == f"{message}save or import the model again\n"
    assert cli("get", f"crack:{damaged}").status == 1
    assert cli("get", f"crack:{sound}").status == 0


def test_paths_are_printed_unescaped(cli, put, tmp_path):
    root = tmp_path / "a\u3000b\u00a0c"
    cli("export", put("crack:v1").tag, tmp_path / "a.zip")
    assert cli("import", tmp_path / "a.zip", "-o", "path", root=root).out == f"{root}/crack/v1\n"
    assert cli("list", "-o", "path", root=root).out == f"{root}/crack/v1\n"


# delete


def test_delete_without_a_terminal(cli, put, store):
    put("crack:v1")
    before = tree(store.root)
    said = cli("delete", "crack:v1")
    assert said.status == 2
    assert "crack:v1" in said.err
    assert "--yes" in said.err
    assert tree(store.root) == before


@pytest.mark.parametrize("text", ["y\n", "Y\n", "yes\n", " YES \n"])
def test_delete_with_a_yes(cli, put, store, answer, text):
    put("crack:v1")
    answer(text)
    said = cli("delete", "crack:v1")
    assert said.status == 0
    assert "crack:v1  " in said.err
    assert said.err.endswith("Delete permanently? [y/N] ")
    assert said.out == "deleted crack:v1\n"
    assert store.list() == []


@pytest.mark.parametrize("text", ["n\n", "\n", "no\n", "yess\n", "\x04", "ja\n"])
def test_delete_without_a_yes(cli, put, store, answer, text):
    put("crack:v1")
    before = tree(store.root)
    answer(text)
    said = cli("delete", "crack")
    assert said.status == 0
    assert said.err.endswith("nothing was deleted\n")
    assert said.out == ""
    assert tree(store.root) == before


@pytest.mark.parametrize(
    ("tags", "left"),
    [
        (["crack:v1"], ["crack:v2", "other:v1"]),
        (["crack"], ["other:v1"]),
        (["crack:latest"], ["crack:v1", "other:v1"]),
        (["crack:v1", "other:v1"], ["crack:v2"]),
        (["crack", "other"], []),
        (["crack:v1", "crack:v1"], ["crack:v2", "other:v1"]),
        (["crack", "crack:v1"], ["other:v1"]),
        (["crack:v1,other:v1"], ["crack:v2"]),
        (["crack:v1,", "crack:v2", ", other"], []),
        (["crack:v1 , crack:v2,,crack:v1"], ["other:v1"]),
    ],
)
@pytest.mark.parametrize("yes", ["--yes", "--assume-yes", "-y"])
def test_delete(cli, put, store, tags, left, yes):
    for tag in ("crack:v1", "crack:v2", "other:v1"):
        put(tag)
    said = cli("delete", *tags, yes)
    assert said.status == 0, said.err
    assert [entry.tag for entry in store.list()] == left
    gone = {"crack:v1", "crack:v2", "other:v1"} - set(left)
    assert sorted(said.out.splitlines()) == sorted(f"deleted {tag}" for tag in gone)
    for name in {tag.partition(":")[0] for tag in left}:
        store.get(name).verify()


@pytest.mark.parametrize("tags", [["crack"], ["crack:v1", "crack:v2"], ["other", "crack"]])
@pytest.mark.parametrize("alias", ["crack:v1", "crack:v2"])
def test_delete_is_all_or_nothing(cli, put, store, tags, alias):
    for tag in ("crack:v1", "crack:v2", "other:v1"):
        put(tag)
    store.alias(alias, "production")
    before = tree(store.root)
    said = cli("delete", *tags, "--yes")
    assert said.status == 1
    assert f"the alias 'crack:production' names '{alias}'" in said.err
    assert said.out == ""
    assert tree(store.root) == before
    assert cli("delete", "crack:production", "--yes").status == 1
    assert cli("alias", "-d", "crack:production").status == 0
    assert cli("delete", *tags, "--yes").status == 0


def test_delete_of_an_unknown_one_among_others(cli, put, store):
    put("crack:v1")
    before = tree(store.root)
    assert cli("delete", "crack:v1", "nope", "--yes").status == 1
    assert tree(store.root) == before


@pytest.mark.parametrize("tag", ["crack:v1", "crack"])
def test_a_damaged_model_can_be_deleted(cli, put, store, tag):
    entry = put("crack:v1")
    put("crack:v2")
    flip(entry.path / "model.yaml")
    assert cli("delete", tag, "--yes").status == 0
    assert not (store.root / "crack" / "v1").exists()
    assert (store.root / "crack" / "v2").exists() == (tag == "crack:v1")
    assert cli("list").err == ""


def test_damaged_model_does_not_block_saving(cli, put, store):
    flip(put("crack:v1").path / "model.yaml")
    put("crack:v2").verify()
    assert store.get("crack").tag == "crack:v2"


# alias


def test_alias(cli, put, store):
    put("crack:v1")
    put("crack:v2")
    assert cli("alias", "crack:v1", "production").out == "crack:production now names crack:v1\n"
    assert cli("get", "crack:production", "-o", "path").out == f"{store.root}/crack/v1\n"
    assert cli("alias", "crack", "production").out == "crack:production now names crack:v2\n"
    assert cli("get", "crack:production", "-o", "path").out == f"{store.root}/crack/v2\n"
    assert cli("alias", "crack:production", "beta").status == 0
    assert store.aliases("crack") == {"production": "v2", "beta": "v2"}
    assert (
        cli("alias", "--delete", "crack:production").out == "removed the alias crack:production\n"
    )
    assert cli("get", "crack:production").status == 1
    assert store.aliases("crack") == {"beta": "v2"}
    assert len(store.list()) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["crack:v1", "v2"], "'crack:v2' is the name of a version"),
        (["crack:v3", "production"], "no model 'crack:v3'"),
        (["-d", "crack:nope"], "no model 'crack:nope'"),
        (["-d", "crack:v1"], "no model 'crack:v1'"),
        (["-d", "crack:latest"], "no model 'crack:latest'"),
        (["-d", "crack"], "no model 'crack'"),
    ],
)
def test_wrong_alias(cli, put, store, arguments, message):
    put("crack:v1")
    put("crack:v2")
    before = tree(store.root)
    said = cli("alias", *arguments)
    assert said.status == 1
    assert message in said.err
    assert tree(store.root) == before


def test_version_cannot_have_the_name_of_an_alias(cli, put, store):
    put("crack:v1")
    store.alias("crack:v1", "production")
    with pytest.raises(ModelExistsError, match="alias 'crack:production' already exists"):
        put("crack:production")


# verify and prune


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        pytest.param(
            lambda p: flip(p / "weights.safetensors"), "weights.safetensors", id="flipped"
        ),
        pytest.param(lambda p: flip(p / "config.yaml"), "config.yaml", id="flipped config"),
        pytest.param(lambda p: flip(p / "model.yaml"), "model.yaml", id="flipped info"),
        pytest.param(lambda p: (p / "config.yaml").unlink(), "config.yaml", id="missing"),
        pytest.param(lambda p: (p / "model.yaml").unlink(), "model.yaml", id="missing info"),
        pytest.param(lambda p: (p / "extra.bin").touch(), "extra.bin", id="extra"),
        pytest.param(lambda p: (p / ".hidden").touch(), ".hidden", id="hidden"),
        pytest.param(lambda p: (p / "config.yaml").write_text(""), "config.yaml", id="emptied"),
        pytest.param(
            lambda p: (p / "config.yaml").write_bytes(
                (p.parent / "v0" / "config.yaml").read_bytes()
            ),
            "config.yaml",
            id="swapped",
        ),
        pytest.param(
            lambda p: (p / "model.yaml").write_bytes((p.parent / "v0" / "model.yaml").read_bytes()),
            "crack/v1",
            id="swapped info",
        ),
        pytest.param(
            lambda p: [
                (p / "config.yaml").rename(p.parent / "c.yaml"),
                (p / "config.yaml").symlink_to(p.parent / "c.yaml"),
            ],
            "config.yaml",
            id="linked",
        ),
    ],
)
def test_verify(cli, put, damage, named):
    put("crack:v0", config_yaml="A: 2")
    damage(put("crack:v1").path)
    put("other:v1")
    said = cli("verify")
    assert said.status == 1
    assert named in said.err
    assert "crack:v1" in said.err
    assert re.findall(r"^(\S+): 2 files intact", said.out, re.M) == ["crack:v0", "other:v1"]
    rows = cli("verify", "-o", "json").rows
    assert {row["tag"]: row["ok"] for row in rows} == {
        "crack:v0": True,
        "crack:v1": False,
        "other:v1": True,
    }
    assert cli("verify", "other,crack:v0").status == 0
    assert cli("verify", "other", "crack:v1").status == 1


def test_verify_of_nothing(cli, put):
    put("crack:v1")
    said = cli("verify", "nope", "crack")
    assert said.status == 1
    assert "crack:v1: 2 files intact" in said.out
    assert "no model 'nope'" in said.err


def test_verify_includes_the_models_that_come_with_d2run(cli, put):
    bundled = ModelStore(lookup.BUNDLED)
    given = {"config_yaml": "A: 1", "weights": {}, "categories": Categories(("x",))}
    bundled.save("shapes:v1", **given)
    put("crack:v1")
    assert [row["tag"] for row in cli("verify", "-o", "json").rows] == ["crack:v1", "shapes:v1"]
    put("shapes:v1")  # used instead of the other
    assert [row["tag"] for row in cli("verify", "-o", "json").rows] == ["crack:v1", "shapes:v1"]


def test_prune(cli, put, store):
    put("crack:v1")
    before = tree(store.root)
    left = [store.root / ".staging-1", store.root / "crack" / ".deleting-2"]
    for folder in left:
        (folder / "sub").mkdir(parents=True)
    (store.root / "crack" / ".x.part").touch()
    said = cli("prune")
    assert said.status == 0
    assert said.out.endswith(f"3 leftovers removed from {store.root}\n")
    assert all(f"removed {folder}\n" in said.out for folder in left)
    assert tree(store.root) == before
    assert cli("prune").out == f"0 leftovers removed from {store.root}\n"


# the outputs of all commands


COMMANDS = {
    "list": ["list"],
    "get": ["get", "crack"],
    "verify": ["verify", "crack:v1"],
    "prune": ["prune"],
    "alias": ["alias", "crack:v1", "production"],
    "export": ["export", "crack:v1", "{tmp}/"],
    "import": ["import", "{tmp}/given.zip"],
    "import again": ["import", "{tmp}/crack.zip"],
    "delete": ["delete", "crack:v1", "--yes"],
}


@pytest.mark.parametrize("output", ["table", "json", "yaml", "path", None])
@pytest.mark.parametrize("name", COMMANDS)
def test_outputs(cli, put, store, tmp_path, name, output):
    put("given:v1")
    assert cli("export", "given", tmp_path / "given.zip").status == 0
    store.delete("given")
    put("crack:v1")
    assert cli("export", "crack", tmp_path / "crack.zip").status == 0
    (store.root / ".staging-1").mkdir()
    arguments = [word.format(tmp=tmp_path) for word in COMMANDS[name]]
    said = cli(*arguments, *(["-o", output] if output else []))
    assert (said.status, said.err) == (0, "")
    if output in ("json", "yaml"):
        read = json.loads if output == "json" else yaml.safe_load
        rows = read(said.out)
        rows = [rows] if isinstance(rows, dict) else rows
        assert len(rows) == 1
        assert {"path", "tag", "version"} & set(rows[0])
    elif output == "path":
        (line,) = said.out.splitlines()
        assert Path(line).is_absolute()
        assert Path(line).exists() == (name not in ("prune", "delete"))
    else:
        assert "crack" in said.out or "given" in said.out or name == "prune"


# export and import


@pytest.fixture
def elsewhere(tmp_path):
    return tmp_path / "elsewhere"


@pytest.mark.parametrize("kind", [".tar", ".tar.gz", ".zip", "dir", "memory", "folder"])
def test_round_trip(cli, put, tmp_path, elsewhere, kind):
    entry = put("crack:v1", labels={"team": "vision"}, metadata={"ü": [1, None]})
    target, options, place = {
        "dir": (tmp_path / "copy", ["dir"], tmp_path / "copy"),
        "memory": (f"memory://{tmp_path.name}/a.zip", [], f"memory://{tmp_path.name}/a.zip"),
        "folder": (tmp_path, [], tmp_path / "crack-v1.tar.xz"),
    }.get(kind, (tmp_path / f"a{kind}", [], tmp_path / f"a{kind}"))
    said = cli("export", "crack", target, *options)
    assert (said.status, said.err) == (0, "")
    assert said.out == f"exported crack:v1 to {place}\n"
    said = cli("import", place, root=elsewhere)
    assert (said.status, said.err) == (0, "")
    assert said.out == f"imported crack:v1 to {elsewhere}/crack/v1\n"
    taken = ModelStore(elsewhere).get("crack")
    taken.verify()
    assert taken.digest == entry.digest
    before = tree(elsewhere)
    said = cli("import", place, root=elsewhere)
    assert (said.status, said.err) == (0, "")
    assert said.out == f"crack:v1 already exists in {elsewhere}/crack/v1; unchanged\n"
    assert tree(elsewhere) == before
    said = cli("export", "crack", place, *options)
    assert said.status == 1
    assert re.search("exist|already", said.err)
    assert cli("export", "crack", place, *options, "--force").status == 0
    assert cli("import", place, root=elsewhere).out.endswith("; unchanged\n")


def test_the_same_model_gives_the_same_archive(cli, put, tmp_path):
    put("crack:v1")
    for name in ("a.tar.xz", "b.tar.xz"):
        cli("export", "crack", tmp_path / name)
    assert (tmp_path / "a.tar.xz").read_bytes() == (tmp_path / "b.tar.xz").read_bytes()


def test_export_under_another_name(cli, put, tmp_path, elsewhere):
    put("crack:v1")
    said = cli("export", "crack", tmp_path, "gz", "--name", "spall:v2")
    path = tmp_path / "spall-v2.tar.gz"
    assert said.out == f"exported crack:v1 as spall:v2 to {path}\n"
    assert cli("import", path, root=elsewhere).out.startswith("imported spall:v2 to ")


def test_export_of_a_damaged_model(cli, put, tmp_path):
    flip(put("crack:v1").path / "config.yaml")
    said = cli("export", "crack", tmp_path / "a.zip")
    assert said.status == 1
    assert "'config.yaml' of the stored model 'crack:v1' differs" in said.err
    assert not (tmp_path / "a.zip").exists()


@pytest.mark.parametrize("options", [["--name", "x"], ["-l", "a=b"], ["-m", "a=b"], ["--ema"]])
def test_options_for_an_exported_model_are_rejected(cli, put, tmp_path, elsewhere, options):
    put("crack:v1")
    cli("export", "crack", tmp_path / "a.zip")
    said = cli("import", tmp_path / "a.zip", *options, root=elsewhere)
    assert said.status == 2
    assert "remove the option" in said.err
    assert tree(elsewhere) == []


def test_import_of_another_model_with_the_same_tag(cli, put, store, tmp_path):
    put("crack:v1")
    cli("export", "crack", tmp_path / "a.zip")
    store.delete("crack")
    kept = put("crack:v1", config_yaml="A: 2")
    said = cli("import", tmp_path / "a.zip")
    assert said.status == 1
    assert "has another model 'crack:v1'" in said.err
    assert store.list() == [kept]


@pytest.mark.parametrize("file", ["model.yaml", "config.yaml", "weights.safetensors"])
def test_import_of_a_damaged_copy(cli, put, tmp_path, elsewhere, file):
    put("crack:v1")
    cli("export", "crack", tmp_path / "copy", "--format", "dir")
    flip(tmp_path / "copy" / file)
    said = cli("import", tmp_path / "copy", root=elsewhere)
    assert said.status == 1
    assert file in said.err
    assert tree(elsewhere) == []


@pytest.mark.parametrize("kind", [".tar.xz", ".zip"])
@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_import_of_a_truncated_archive(cli, put, tmp_path, elsewhere, kind, share):
    put("crack:v1")
    path = tmp_path / f"a{kind}"
    cli("export", "crack", path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    said = cli("import", path, root=elsewhere)
    assert said.status == 1
    assert str(path) in said.err
    assert tree(elsewhere) == []


HOSTILE = {
    "no name": {"name": None},
    "a name that climbs": {"name": "../../x"},
    "a version that climbs": {"version": "../../x"},
    "an absolute name": {"name": "/tmp/x"},
    "a number for a name": {"name": 7},
    "latest": {"version": "latest"},
    "no files": {"files": None},
    "files that climb": {"files": {"../x": {"size": 0, "sha256": "0" * 64}}},
    "model.yaml of model.yaml": {"files": {"model.yaml": {"size": 0, "sha256": "0" * 64}}},
    "files as a list": {"files": ["config.yaml"]},
    "files without sizes": {"files": {"config.yaml": 3}},
    "no weights": {"files": {}},
    "no labels": {"labels": None},
    "labels as a list": {"labels": ["a"]},
    "no time": {"created": None},
    "another time": {"created": "yesterday"},
    "a number for a time": {"created": 5},
    "no categories": {"categories": None},
    "other categories": {"categories": {"colour": ["red"], "skeleton": []}},
    "categories without a skeleton": {"categories": {"thing_names": ["x"]}},
    "a skeleton of no pairs": {"categories": {"thing_names": ["x"], "skeleton": [[0, 1, 2]]}},
    "a time without a zone": {"created": "2026-01-02T03:04:05"},
    "no signatures": {"signatures": None},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_import_of_a_maliciously_sealed_model(cli, put, tmp_path, elsewhere, name):
    put("crack:v1")
    cli("export", "crack", tmp_path / "a.zip")
    cli("import", tmp_path / "a.zip", root=elsewhere)
    entry = put("crack:v2")
    info = dict(entry.info) | HOSTILE[name]
    del info["digest"]
    for key in [key for key, value in info.items() if value is None]:
        del info[key]
    (entry.path / "model.yaml").write_bytes(sealed(info))
    before = tree(elsewhere)
    said = cli("import", entry.path, root=elsewhere)
    assert said.status == 1
    assert said.err
    assert tree(elsewhere) == before
    assert not (tmp_path / "x").exists()


def small_config(folder):
    """A typical config file: a base and a few keys."""
    cfg = tiny_cfg()
    path = folder / "config.yaml"
    path.write_text(cfg.dump())
    return path


@pytest.mark.detectron2
def test_save(cli, store, tmp_path):
    config = small_config(tmp_path)
    arguments = ["save", "crack:v1", "--config", config, "--weights", "random"]
    arguments += ["--class-names", "crack, spall,rust", "-l", "team=vision", "-m", "map=0.5"]
    arguments += ["-m", "note=about: this", "-m", "tags=[1, null]"]
    said = cli(*arguments)
    assert said.status == 0, said.err
    assert said.out == f"saved crack:v1 in {store.root}/crack/v1\n"
    assert said.err.startswith("warning: model 'crack:v1' has random weights")
    entry = store.get("crack")
    assert entry.categories.thing_names == ("crack", "spall", "rust")
    assert entry.info.labels == {"team": "vision"}
    assert entry.info.metadata == {"map": 0.5, "note": "about: this", "tags": [1, None]}
    assert "self-test recorded in this environment" in cli("verify").out
    assert "self-test passed on" in cli("verify", "--selftest").out
    named = cli(*[*arguments[:1], "crack", *arguments[2:]], "-o", "json").rows
    assert named[0]["tag"].startswith("crack:20")
    assert len(store.list()) == 2


@pytest.mark.detectron2
def test_round_trip_by_way_of_bentoml(cli, store, tmp_path, elsewhere):
    cli("save", "crack:v1", "--config", small_config(tmp_path), "--weights", "random",
        "--class-names", "crack,spall,rust", "-l", "team=vision", "-m", "map=0.5")  # fmt: skip
    path = tmp_path / "crack.bentomodel"
    said = cli("export", "crack", path)
    assert (said.status, said.err) == (0, "")
    assert said.out.endswith(f"to import it: bentoml models import {path}\n")
    assert cli("import", path, root=elsewhere).out.startswith("imported crack:v1 to ")
    assert cli("import", path, root=elsewhere).out.endswith("; unchanged\n")
    there, here = ModelStore(elsewhere).get("crack"), store.get("crack")
    for key in ("labels", "metadata", "categories", "kind", "created", "signatures"):
        assert there.info[key] == here.info[key]
    weights = "weights.safetensors"
    assert there.info.files[weights] == here.info.files[weights]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The output directory of a training, and its weights."""
    folder = tmp_path_factory.mktemp("trained")
    cfg = tiny_cfg()
    small_config(folder)
    with architectures.quiet():
        weights = [architectures.build(cfg, seed).state_dict() for seed in (1, 2)]
    averages = {name: value + 1 for name, value in weights[1].items() if "backbone" in name}
    (folder / "last_checkpoint").write_text("model_final.pth")
    for name, state in zip(("model_0000099.pth", "model_final.pth"), weights, strict=True):
        torch.save({"model": state, "iteration": 99, "ema_state": averages}, folder / name)
    (folder / "metrics.json").write_text("{}")
    return folder, weights, averages


@pytest.fixture
def training(tmp_path, trained):
    """A copy of it that a test may change."""
    folder = shutil.copytree(trained[0], tmp_path / "Crack Finder.v2")
    return folder, *trained[1:]


NAMES = {
    "list": "crack,spall, rust",
    "names.txt": "crack\nspall\nrust\n",
    "coco.json": json.dumps(
        {"categories": [{"id": 3 * i, "name": n} for i, n in enumerate(CLASS_NAMES, 1)]}
    ),
    "metadata.json": json.dumps({"thing_classes": CLASS_NAMES, "evaluator_type": "coco"}),
    "list.json": json.dumps(CLASS_NAMES),
}


@pytest.mark.detectron2
@pytest.mark.parametrize("kind", NAMES)
def test_import_of_a_training(cli, store, tmp_path, training, kind):
    folder, weights, _ = training
    names = NAMES[kind]
    if kind != "list":
        names = tmp_path / kind
        names.write_text(NAMES[kind])
    arguments = ["import", folder, "--class-names", names, "-l", "team=vision", "-m", "map=0.5"]
    said = cli(*arguments)
    assert said.status == 0, said.err
    entry = store.get("crack_finder.v2")
    assert said.out == f"imported {entry.tag} to {entry.path}\n"
    assert entry.categories.thing_names == tuple(CLASS_NAMES)
    assert entry.categories.thing_ids == ((3, 6, 9) if kind == "coco.json" else (1, 2, 3))
    assert (entry.info.labels, entry.info.metadata) == ({"team": "vision"}, {"map": 0.5})
    stored = read_weights(entry.path / "weights.safetensors")
    assert stored.keys() == weights[1].keys()
    assert all(torch.equal(value, weights[1][name]) for name, value in stored.items())
    if kind == "list":
        assert "self-test passed on" in cli("verify", "--selftest").out
    again = cli(*arguments)
    assert again.status == 0
    assert again.out == f"{entry.tag} already exists in {entry.path}; unchanged\n"
    assert store.list() == [entry]


@pytest.mark.detectron2
def test_import_again(cli, store, training):
    folder = training[0]
    (folder / "last_checkpoint").write_text("model_0000199.pth")
    arguments = ["import", folder, "--name", "crack"]
    said = cli(*arguments)
    assert said.status == 0
    assert "no 'model_0000199.pth', which last_checkpoint names; using model_final" in said.err
    first = store.get("crack")
    said = cli(*arguments, "--class-names", "crack,spall,rust", "-q")
    updated = store.get("crack")
    assert updated.categories.thing_names == tuple(CLASS_NAMES)
    assert (said.status, said.err) == (0, "")
    assert said.out == f"imported {updated.tag} to {updated.path}; it updates {first.tag}\n"
    said = cli(*arguments, "--verbose")
    assert (said.status, said.out) == (
        0,
        f"{updated.tag} already exists in {updated.path}; unchanged\n",
    )
    version = f"crack:{first.info.version}"
    said = cli("import", folder, "--name", version, "-l", "by=me", "--do-not-track")
    assert said.status == 1
    assert f"'{version}' has other labels" in said.err


def test_import_of_a_whole_store(cli, put, store, tmp_path, elsewhere):
    put("crack:v1")
    put("crack:v2")
    flip(put("damaged:v1").path / "config.yaml")
    other = store.root / "models" / "other" / "v1"
    for folder in (store.root / "crack", store.root / "damaged"):
        shutil.move(folder, store.root / "models" / folder.name)
    other.mkdir(parents=True)
    (other.parent / "latest").write_text("v1")
    (other / "model.yaml").write_text("name: other\nversion: v1\nmodule: bentoml.sklearn\n")
    said = cli("import", store.root, root=elsewhere)
    assert said.status == 1
    assert said.out.splitlines() == [
        f"imported crack:{version} to {elsewhere}/crack/{version}" for version in ("v1", "v2")
    ]
    failed, skipped = said.err.splitlines()
    assert failed.startswith("cannot import damaged:v1: 'config.yaml' of the stored model")
    assert skipped.startswith("skipped other:v1: ")
    assert "a model of bentoml.sklearn" in skipped
    shutil.rmtree(store.root / "models" / "damaged")
    said = cli("import", store.root, "-o", "json", root=elsewhere)
    assert said.status == 0
    assert [row["tag"] for row in said.rows] == ["crack:v1", "crack:v2"]
    shutil.rmtree(store.root / "models" / "crack")
    said = cli("import", store.root, root=elsewhere)
    assert said.status == 1
    assert cli("import", store.root / "models", "--name", "x", root=elsewhere).status == 2


@pytest.mark.detectron2
def test_import_of_averages_of_a_training(cli, store, training):
    folder, weights, averages = training
    said = cli("import", folder, "--name", "crack:ema", "--ema")
    assert said.status == 0, said.err
    assert "'crack' is saved without class names" in said.err
    entry = store.get("crack:ema")
    assert entry.categories.thing_names == ("class_0", "class_1", "class_2")
    stored = read_weights(entry.path / "weights.safetensors")
    expected = weights[1] | averages
    assert all(torch.equal(value, expected[name]) for name, value in stored.items())
    assert cli("import", folder, "--name", "crack:plain").status == 0
    assert len(store.list()) == 2


@pytest.mark.detectron2
def test_which_checkpoint_is_imported(cli, store, training):
    folder, weights, _ = training
    (folder / "last_checkpoint").write_text("/home/me/output/model_0000099.pth\n")
    assert cli("import", folder, "--name", "crack:a").status == 0
    stored = read_weights(store.get("crack").path / "weights.safetensors")
    assert all(torch.equal(value, weights[0][name]) for name, value in stored.items())
    (folder / "last_checkpoint").unlink()
    (folder / "model_final.pth").rename(folder / "best.pth")
    said = cli("import", folder, "--name", "crack:b")
    assert said.status == 1
    assert "has 2 checkpoints" in said.err
    assert "best.pth, model_0000099.pth" in said.err


@pytest.mark.detectron2
def test_wrong_names_for_a_training(cli, store, training):
    said = cli("import", training[0], "--class-names", "a,b")
    assert said.status == 2
    assert "has 2 classes" in said.err
    assert tree(store.root) == []


# the process: start, end, streams


@pytest.mark.parametrize("number", [200, pytest.param(1000, marks=pytest.mark.nightly)])
def test_many_models_are_listed_without_torch(put, store, number):
    many_models(store, put, number)
    code = (
        "import sys\n"
        "from pipeline.store.command.cli import main\n"
        "status = main(sys.argv[1:])\n"
        "heavy = {'torch', 'detectron2', 'safetensors', 'cv2.dnn'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    for arguments, least in (
        (["list", "-o", "path"], number),
        (["list"], number),
        (["get", "m7"], 1),
        (["prune"], 1),
        (["alias", "m7", "production"], 1),
        (["delete", "m8", "-y"], 2),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, "--root", str(store.root), *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) >= least


def test_closed_output_pipe(put, store):
    many_models(store, put, 60)
    for arguments in (
        ["list"],
        ["list", "-o", "json"],
        ["list", "-o", "path"],
        ["verify", "shapes"],
    ):
        read, write = os.pipe()
        os.close(read)
        done = run(store.root, *arguments, stdout=write)
        os.close(write)
        assert done.returncode in (0, 141)
        assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "redirection", "status"),
    [
        ("list", ">&-", 0),
        ("list -o json", ">&-", 0),
        ("verify shapes", ">&- 2>&-", 0),
        ("get nope", "2>&-", 1),
        ("delete crack", "<&-", 2),
        ("delete crack -y", "<&- >&- 2>&-", 0),
    ],
)
def test_closed_streams(put, store, arguments, redirection, status):
    put("crack:v1")
    shell = ["sh", "-c", f'exec "$@" {redirection}', "sh"]
    done = subprocess.run(
        [*shell, *command(store.root, *arguments.split())],
        cwd=ROOT,
        text=True,
        check=False,
        timeout=60,
        capture_output=True,
    )
    assert "Traceback" not in done.stderr + done.stdout
    assert done.returncode == status


def test_a_full_disk_for_the_output(put, store):
    put("crack:v1")
    with Path("/dev/full").open("w") as full:
        done = run(store.root, "list", stdout=full)
    assert done.returncode == 1
    assert done.stderr == "cannot read or write the output: No space left on device\n"


@pytest.mark.parametrize("place", ["before", "after", "last", "both"])
def test_root_before_and_after_the_command(tmp_path, capsys, monkeypatch, place):
    monkeypatch.setattr(lookup, "BUNDLED", tmp_path / "bundled")
    root = ["--root", str(tmp_path / "root")]
    arguments = {
        "before": [*root, "list", "crack"],
        "after": ["list", *root, "crack"],
        "last": ["list", "crack", *root],
        "both": ["--root", "other", "list", "crack", *root],  # the last one
    }
    handler = signal.getsignal(signal.SIGTERM)
    assert main(arguments[place]) == 1
    signal.signal(signal.SIGTERM, handler)
    assert capsys.readouterr().err == f"no model 'crack' in {tmp_path / 'root'}\n"


REVERSING = "a\u202eb\u2066c\x1b[31md\x9be\u2028f\x7fg\u200fh"


@pytest.mark.parametrize("output", ["table", "json", "yaml"])
def test_printed_text_has_no_control_characters(store, cli, output):
    categories = Categories(thing_names=("a\u202eb",))
    store.save(
        "odd",
        config_yaml="VERSION: 2\n",
        weights={"w": torch.zeros(1)},
        categories=categories,
        labels={REVERSING: REVERSING},
        metadata={REVERSING: [REVERSING, "line\nline", "日本 é"]},
    )
    said = [
        cli("get", "odd", "-o", output),
        cli("list", "-o", output),
        cli("get", f"odd{REVERSING}"),
    ]
    for text in (each.out + each.err for each in said):
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200f\u2028\u202e\u2066]", text)
    if output != "table":
        read = {"json": json.loads, "yaml": yaml.safe_load}[output](said[0].out)
        assert read["labels"] == {REVERSING: REVERSING}
        assert read["metadata"] == {REVERSING: [REVERSING, "line\nline", "日本 é"]}
        assert read["categories"]["thing_names"] == ["a\u202eb"]


def test_wrong_arguments_are_escaped(cli):
    said = cli("list", "a", REVERSING)
    assert said.status == 2
    assert "unrecognized arguments: a\\u202eb" in said.err
