"""Every option, key, file and link that a page names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
GROUPS = [folder.name for folder in CONF.iterdir() if folder.is_dir() and folder.name[0] != "_"]
# of the examples on the pages, and Hydra's or a source's own
OWN = {"stage": {"mine", "not_at_edge", "at_least"}, "sink": {"counts"}}


def keys(group: str) -> set[str]:
    found: set[str] = set()
    for path in (CONF / group).glob("*.yaml"):
        found |= set(yaml.safe_load(path.read_text("utf-8")) or {})
    return found | set(re.findall(r"^    (\w+): ", _schema(group), re.MULTILINE))


def _schema(group: str) -> str:
    text = (ROOT / "pipeline/config/schema.py").read_text("utf-8")
    found = re.search(rf"^class {group.title()}Config.*?(?=^@|\Z)", text, re.MULTILINE | re.DOTALL)
    return found[0] if found else ""


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_options_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    missing = []
    for group in GROUPS:
        options = {path.stem for path in (CONF / group).glob("*.yaml")} | OWN.get(group, set())
        chosen = set()
        for value in re.findall(rf"(?<![\w.]){group}=(\[[\w,]+\]|[a-z_]\w*)", text):
            chosen |= set(value.strip("[]").split(",")) - {""}
        missing += [f"{group}={name}" for name in sorted(chosen - options)]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_keys_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    missing = []
    for group in GROUPS:
        named = set(re.findall(rf"(?<![\w./-]){group}\.(\w+)(?==|`)", text))
        missing += [
            f"{group}.{name}" for name in sorted(named - keys(group) - OWN.get(group, set()))
        ]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_files_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    paths = re.findall(r"\b((?:benchmarks|examples|tests|pipeline|runners)/[\w/]+\.\w+)", text)
    missing = [name for name in links if not (page.parent / name).exists()]
    missing += [name for name in paths if not (ROOT / name).exists()]
    assert [name for name in missing if "my_stage" not in name] == []
