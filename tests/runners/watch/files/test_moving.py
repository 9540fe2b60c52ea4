"""Moving and deleting in step with the ledger: kills at any step, names that are used again."""

from __future__ import annotations

import hashlib
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from runners.rundir.ledger.ledger import Entry, Ledger
from runners.rundir.ledger.source_files import SourceFile, SourceFiles
from runners.watch.counts import UnreportedCounts
from runners.watch.files import claims, transfer
from runners.watch.files.claims import ProcessedFile
from runners.watch.files.input_ids import InputIds
from runners.watch.files.moving import FileMover
from runners.watch.files.postprocessing import PostProcessing
from runners.watch.health import HealthIssues
from runners.watch.inbox.inbox import Inbox
from runners.watch.messages import Messages
from runners.watch.schedule import Schedule


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Run:
    """A watch with a ledger and a folder, without a model; files with ``bad`` content fail."""

    def __init__(self, base: Path, action: str = "move", marker: str | None = None) -> None:
        self.root = base / "in"
        self.ledger = Ledger(base / "ledger.sqlite")
        self.files = SourceFiles(self.ledger)
        self.post_processing = PostProcessing(action, self.root, marker=marker)
        self.input_ids = InputIds(self.ledger, self.files, self.post_processing)
        self.inbox = Inbox(
            self.root,
            Schedule(),
            ready="marker" if marker else "rename",
            marker=marker or "",
            excluded=[self.post_processing.done.path, self.post_processing.failed.path],
            follow=False,
        )
        status = SimpleNamespace(health=lambda *_: None)
        self.mover = FileMover(
            self.post_processing,
            self.ledger,
            self.files,
            self.input_ids,
            UnreportedCounts(self.ledger, self.files),
            self.inbox,
            HealthIssues(status, Messages(quiet=True)),
        )

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.ledger.__exit__()

    def work(self) -> None:
        """Scan once and process all files."""
        arrivals = self.inbox.scan()
        if self.mover.recover():
            arrivals += self.inbox.scan()
        files = []
        used: set[str] = set()
        for arrival in arrivals:
            digest = sha256(arrival.path)
            asset_id = self.input_ids.id_of(arrival, lambda digest=digest: digest, used)
            used.add(asset_id)
            ok = arrival.path.read_bytes()[:3] != b"bad"
            entry = self.ledger.find([asset_id]).get(asset_id)
            if entry is None or entry.sha256 != digest:
                outcome = "done" if ok else "failed"
                entry = Entry(asset_id, self.ledger.next_place(), outcome, sha256=digest)
                self.ledger.put([entry])
                self.files.put([SourceFile(asset_id, arrival.id, unreported=not ok)])
            files.append(ProcessedFile(asset_id, arrival, ok, digest))
        self.ledger.commit()
        self.mover.process(files)

    def results(self, outcome: str = "done") -> dict[str, str | None]:
        return {e.id: e.sha256 for e in self.ledger.entries() if e.outcome == outcome}


def tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


STEPS = (
    (claims, "rename_new"), (transfer, "rename_new"), (os, "unlink"), (os, "mkdir"), (os, "rmdir"),
    (os, "symlink"), (os, "fsync"), (Ledger, "commit"), (Ledger, "put"),
)  # fmt: skip


def killed_at(n: int, when: str) -> None:
    """Kill this process at the n-th step, before or after it."""
    left = n

    def dying(original):
        def step(*args, **kwargs):
            nonlocal left
            left -= 1
            if left < 0 and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            value = original(*args, **kwargs)
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return value

        return step

    for owner, name in STEPS:
        setattr(owner, name, dying(getattr(owner, name)))


def prepare(base: Path, action: str, marker: str | None) -> None:
    """Create a file with a name that was used before, one in a folder, a link, one that fails."""
    root = base / "in"
    (root / "sub").mkdir(parents=True)
    contents = {"x.png": "second", "sub/y.png": "other", "z.png": "bad one"}
    (base / "outside.png").write_text("outside")
    (root / "link.png").symlink_to("../outside.png")
    (root / "x.png").write_text("first")
    if marker:
        for name in (*contents, "link.png"):
            (root / (name + marker)).write_text(name)
        (root / f"link.png{marker}").unlink()
    with Run(base, action, marker) as run:
        (root / "link.png").rename(base / "kept")
        run.work()
    (base / "kept").rename(root / "link.png")
    for name, text in contents.items():
        (root / name).write_text(text)
        if marker:
            (root / (name + marker)).write_text(name)
    if marker:
        (root / f"link.png{marker}").write_text("link.png")


NIGHTLY = (pytest.mark.nightly, pytest.mark.timeout(600))


@pytest.mark.parametrize(
    ("action", "marker", "copies", "every"),
    [
        ("move", ".ok", False, 5),
        ("delete", None, False, 5),
        *(
            pytest.param(action, marker, copies, 1, marks=NIGHTLY)
            for action in ("move", "delete")
            for marker in (None, ".ok")
            for copies in (False, True)
        ),
    ],
)
def test_killed_at_any_step(
    action: str,
    marker: str | None,
    copies: bool,
    every: int,
    tmp_path: Path,
    file_system_of: Callable[[str], None],
) -> None:
    deaths = 0
    for n in range(0, 400, every):
        base = tmp_path / str(n)
        prepare(base, action, marker)
        if copies:
            file_system_of(f"{base}/in/{'done' if action == 'move' else 'failed'}")
        child = os.fork()
        if child == 0:
            try:
                with Run(base, action, marker) as run:
                    killed_at(n // 2, ("before", "after")[n % 2])
                    run.work()
            finally:
                os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        deaths += status == -signal.SIGKILL
        with Run(base, action, marker) as run:
            run.work()
            run.work()
            check(run, action, marker)
        assert (base / "outside.png").read_text() == "outside"
        if status == 0:
            break
    assert deaths * every > 50


def check(run: Run, action: str, marker: str | None) -> None:
    digests = {
        text: hashlib.sha256(text.encode()).hexdigest()
        for text in ("first", "second", "other", "outside", "bad one")
    }
    assert run.results() == {
        "x.png": digests["first"],
        "x~2.png": digests["second"],
        "sub/y.png": digests["other"],
        "link.png": digests["outside"],
    }
    assert run.results("failed") == {"z.png": digests["bad one"]}
    left = {"failed/z.png": "bad one"}
    if action == "move":
        done = {"x.png": "first", "x~2.png": "second", "sub/y.png": "other", "link.png": "outside"}
        left |= {f"done/{name}": text for name, text in done.items()}
    found = tree(run.root)
    markers = {name for name in found if marker and name.endswith(marker)}
    assert {name: text for name, text in found.items() if name not in markers} == left
    assert markers == ({name + marker for name in left} if marker else set())
    assert not list(run.root.glob("**/.d2run"))


def test_a_new_file_that_comes_while_the_old_one_is_under_its_private_name(tmp_path: Path) -> None:
    root = tmp_path / "in"
    root.mkdir()
    (root / "x.png").write_text("old")
    with Run(tmp_path) as run:
        (arrival,) = run.inbox.scan()
        digest = sha256(arrival.path)
        run.ledger.put([Entry("x.png", 0, "done", sha256=digest)])
        run.files.put([SourceFile("x.png", "x.png")])
        run.ledger.commit()
        assert run.post_processing.claim(ProcessedFile("x.png", arrival, True, digest))
    (root / "x.png").write_text("new")
    with Run(tmp_path) as run:
        run.work()
        assert tree(root) == {"done/x.png": "old", "done/x~2.png": "new"}
        assert Counter(run.results()) == Counter(
            {name: sha256(root / "done" / name) for name in ("x.png", "x~2.png")}
        )


def test_what_the_ledger_does_not_know_is_put_back_and_done(tmp_path: Path) -> None:
    root = tmp_path / "in"
    (root / "sub" / ".d2run").mkdir(parents=True)
    (root / "sub" / ".d2run" / "x.png").write_text("orphan")
    (root / "sub" / "x.png").write_text("newer")
    with Run(tmp_path) as run:
        run.work()
        assert tree(root) == {"done/sub/x.png": "newer", "done/sub/x~2.png": "orphan"}
        assert sorted(run.results()) == ["sub/x.png", "sub/x~2.png"]


NAMES = [
    # files in turn (name, content), and the ids of the results with their contents
    ([("x", "1"), ("x", "2"), ("x", "3")], {"x": "1", "x~2": "2", "x~3": "3"}),
    ([("x", "1"), ("x", "1")], {"x": "1"}),
    ([("x", "1"), ("x", "2"), ("x", "1"), ("x", "2")], {"x": "1", "x~2": "2"}),
    ([("x~2", "1"), ("x", "2"), ("x", "3")], {"x~2": "1", "x": "2", "x~3": "3"}),
    ([("x", "1"), ("x", "2"), ("x~2", "3")], {"x": "1", "x~2": "2", "x~2~2": "3"}),
    ([("x", "bad 1"), ("x", "2")], {"x~2": "2"}),
    ([("x", "bad 1"), ("x", "bad 1"), ("x", "2"), ("x", "3")], {"x~2": "2", "x~3": "3"}),
    ([("a/x", "1"), ("b/x", "2"), ("a/x", "3")], {"a/x": "1", "b/x": "2", "a/x~2": "3"}),
]


@pytest.mark.parametrize(("arriving", "expected"), NAMES)
@pytest.mark.parametrize("action", ["move", "delete"])
@pytest.mark.parametrize("restarts", [False, True])
def test_names_that_come_again(
    restarts: bool,
    action: str,
    arriving: list[tuple[str, str]],
    expected: dict[str, str],
    tmp_path: Path,
) -> None:
    root = tmp_path / "in"
    root.mkdir()
    run = Run(tmp_path, action)
    for name, text in arriving:
        path = root / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        os.utime(path, (7, 7))  # size and time are the same: the content decides
        run.work()
        assert not path.exists()
        if restarts:
            run.__exit__()
            run = Run(tmp_path, action)
    with run:
        digests = {
            f"{name}.png": hashlib.sha256(text.encode()).hexdigest()
            for name, text in expected.items()
        }
        assert run.results() == digests
    if action == "move":
        done = {f"{name}.png": text for name, text in expected.items()}
        assert tree(root / "done") == done


def test_a_moved_file_of_another_run_keeps_its_name(tmp_path: Path) -> None:
    root = tmp_path / "in"
    (root / "done").mkdir(parents=True)
    (root / "done" / "x.png").write_text("of last year")
    (root / "x.png").write_text("new")
    with Run(tmp_path) as run:
        run.work()
        assert list(run.results()) == ["x~2.png"]
    assert tree(root / "done") == {"x.png": "of last year", "x~2.png": "new"}


def test_a_file_that_changes_before_it_is_moved_is_the_same_input(tmp_path: Path) -> None:
    root = tmp_path / "in"
    root.mkdir()
    path = root / "x.png"
    path.write_text("half")
    with Run(tmp_path) as run:
        with path.open("a") as writer:
            run.work()  # done, and cannot be moved
            writer.write(" and half")
        assert (run.inbox.n_pending, list(run.results())) == (1, ["x.png"])
    with Run(tmp_path) as run:
        run.work()
        assert run.results() == {"x.png": hashlib.sha256(b"half and half").hexdigest()}
    assert tree(root) == {"done/x.png": "half and half"}
