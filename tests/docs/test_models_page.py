"""The Python of docs/models.md, run block after block as a reader would."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "models.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.detectron2
def test_the_blocks_run(tmp_path, monkeypatch, capsys):
    assert len(BLOCKS) == 5
    monkeypatch.setenv("D2RUN_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    names: dict[str, object] = {}
    said = []
    for block in BLOCKS:
        exec(compile(block, str(PAGE), "exec"), names)
        said.append(capsys.readouterr().out.splitlines())
    saved, found, (one, other), (batch, objects), (imported,) = said
    assert saved[0].startswith("my_shapes:")
    assert '"boxes": [[' in found[0]
    assert '"circle"' in found[0] or '"square"' in found[0] or '"triangle"' in found[0]
    assert int(one) == int(other) > 0
    assert (batch, objects) == ("2", "{'threshold': 0.5}")
    assert imported.startswith("my_shapes:")


def test_every_function_is_named_on_the_page():
    from pipeline import store

    functions = [name for name in store.__all__ if name[0].islower()]
    assert [name for name in functions if f"store.{name}(" not in PAGE.read_text("utf-8")] == []
