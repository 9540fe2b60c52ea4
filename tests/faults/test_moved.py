"""The output is moved or deleted under a running batch: no result counts without its files."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dying import ended, forked
from forking import warm
from scenarios import make_inputs, outputs, run_scenario, tell, told, with_maps


def move(out: Path) -> None:
    out.rename(out.with_name("elsewhere"))


def move_and_make_another(out: Path) -> None:
    move(out)
    out.mkdir()


def delete(out: Path) -> None:
    shutil.rmtree(out)


def part(name: str, do: str) -> Callable[[Path], None]:
    def act(out: Path) -> None:
        if do == "moved":
            (out / name).rename(out.with_name("elsewhere"))
        elif (out / name).is_dir():
            shutil.rmtree(out / name)
        else:
            (out / name).unlink()

    return act


# what is done to the output, and what the next run over the same input says
ACTIONS: dict[str, Callable[[Path], None]] = {
    "moved": move,
    "moved, another in its place": move_and_make_another,
    "deleted": delete,
    **{
        f"{name} {do}": part(name, do)
        for name in ("overlay", "overlay/0", "sem_seg", "predictions.jsonl", "ledger.sqlite")
        for do in ("moved", "deleted")
    },
}


def check_ledger(out: Path) -> int:
    """Whether all that the ledger calls done has its files; return how many that are."""
    from runners.rundir.ledger.ledger import Ledger

    done = 0
    lines = (out / "predictions.jsonl").read_bytes()
    with Ledger(out / "ledger.sqlite") as ledger:
        for entry in ledger.entries():
            if entry.outcome == "done":
                assert (out / "overlay" / f"{entry.id}.jpg").is_file(), entry
                assert (out / "sem_seg" / f"{entry.id}.png").is_file(), entry
                assert entry.start is not None
                line = json.loads(lines[entry.start : entry.start + entry.length])
                assert line["asset"] == entry.id
                done += 1
    return done


def scenario_moved(folder: Path, n: int, times: list[int], every: int) -> None:
    arguments = make_inputs(folder / "in", n)
    elsewhere = folder / "elsewhere"

    def run(out: Path, prepare: Callable[[], None] = lambda: None) -> tuple[int, list[str]]:
        def both() -> None:
            from runners.rundir import commit as session

            session.GROUP = 4
            with_maps()
            prepare()

        return told(lambda: forked([*arguments, f"output={out}"], both), folder / "stderr")

    assert run(folder / "whole")[0] == 3
    whole = outputs(folder / "whole")
    for name, action in list(ACTIONS.items())[::every]:
        for at in times:
            out = folder / "out"

            def arm(at: int = at, action: Callable[[Path], None] = action, out: Path = out) -> None:
                """Act when the ``at``-th input has been written and not been committed."""
                from runners.rundir.journal import Journal

                original, left = Journal.append, at

                def append(self: Journal, *args: Any) -> None:
                    nonlocal left
                    original(self, *args)
                    left -= 1
                    if left == 0:
                        action(out)

                Journal.append = append  # type: ignore[method-assign]

            status, lines = run(out, arm)
            said = [line for line in lines if "broken.png" not in line]
            case = (name, at, status, said)
            assert status == 1, case
            assert len(said) == 1, case
            assert any(word in said[0] for word in ("moved", "deleted", "shorter")), case
            if name.startswith("moved"):
                assert not out.exists() or not any(out.iterdir()), case  # nothing made there
                record = json.loads((elsewhere / "run.json").read_bytes())
                assert record["exit_status"] == 1, case
                check_ledger(elsewhere)
                if out.exists():
                    out.rmdir()
                elsewhere.rename(out)
            elif name == "deleted":
                assert not out.exists(), case
            elif elsewhere.is_dir():  # back with what is not there again
                shutil.copytree(elsewhere, out / name.split()[0], dirs_exist_ok=True)
                check_ledger(out)
            if "ledger" in name or "predictions" in name:
                assert run(out)[0] == 1, case
                repaired = ended(forked([*arguments, f"output={out}", "runner=repair"]))
                assert repaired == 0, case
            status, lines = run(out)
            assert status == 3, (name, at, lines)
            if "deleted" not in name or name == "deleted":
                assert outputs(out) == whole, case
            shutil.rmtree(out)
            if elsewhere.is_dir():
                shutil.rmtree(elsewhere)
            elsewhere.unlink(missing_ok=True)
    tell("whole")


@pytest.mark.timeout(300)
def test_an_output_that_goes_away(tmp_path: Path) -> None:
    assert run_scenario(__file__, tmp_path, "moved", 12, [6], 8) == "whole\n"


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_an_output_that_goes_away_at_many_times(tmp_path: Path) -> None:
    assert run_scenario(__file__, tmp_path, "moved", 24, [1, 4, 6, 15, 25], 1) == "whole\n"


if __name__ == "__main__":
    warm()
    os.umask(0o022)
    scenario_moved(Path(sys.argv[2]), *json.loads(sys.argv[3]))
