"""Every option, key, file and link that a page names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "benchmarks/*.md", "examples/*/*.md", "packaging/*/*.md")
    for path in ROOT.glob(pattern)
    if path.name != "CHANGELOG.md"  # which names what was renamed
)
GROUPS = [folder.name for folder in CONF.iterdir() if folder.is_dir() and folder.name[0] != "_"]
# of the examples on the pages
OWN = {
    group: {path.stem for path in (ROOT / "examples/user_package/conf" / group).glob("*.yaml")}
    for group in GROUPS
}
OWN["stage"] |= {"mine", "best_f1"}  # runner=evaluate writes the latter


def keys(group: str) -> set[str]:
    found: set[str] = set()
    for path in (CONF / group).glob("*.yaml"):
        found |= set(yaml.safe_load(path.read_text("utf-8")) or {})
    return found | set(re.findall(r"^    (\w+): ", _schema(group), re.MULTILINE))


def _schema(group: str) -> str:
    text = (ROOT / "pipeline/config/schema.py").read_text("utf-8")
    found = re.search(rf"^class {group.title()}Config.*?(?=^@|\Z)", text, re.MULTILINE | re.DOTALL)
    return found[0] if found else ""


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
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


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_keys_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    missing = []
    for group in GROUPS:
        named = set(re.findall(rf"(?<![\w./-]){group}\.(\w+)(?==|`)", text))
        missing += [
            f"{group}.{name}" for name in sorted(named - keys(group) - OWN.get(group, set()))
        ]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_lines_are_short(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    lines = [line for line in text.splitlines() if not line.startswith("|")]
    assert [line for line in lines if len(line) > 100] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    paths = re.findall(r"\b((?:benchmarks|examples|tests|pipeline|runners)/[\w/]+\.\w+)", text)
    missing = [name for name in links if not (page.parent / name).exists()]
    missing += [name for name in paths if not (ROOT / name).exists()]
    assert [name for name in missing if "my_stage" not in name] == []


def defaults() -> dict[str, list[object]]:
    """Return the values of each key in conf/, by its full name; one per option that has it."""
    found: dict[str, list[object]] = {}
    for path in CONF.rglob("*.yaml"):
        group = path.parent.name
        for key, value in (yaml.safe_load(path.read_text("utf-8")) or {}).items():
            prefix = "" if path.parent == CONF else f"{group}."
            for name, inner in value.items() if isinstance(value, dict) else [("", value)]:
                full = f"{prefix}{key}.{name}" if name else f"{prefix}{key}"
                found.setdefault(full, []).append(inner)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_defaults_are_those_of_conf(page: Path) -> None:
    known, wrong = defaults(), []
    for table in re.findall(
        r"^\|[^\n]*\| default \|.*?\n(?!\|)", page.read_text("utf-8"), re.M | re.S
    ):
        for row in table.splitlines()[2:]:
            first, default = (cell.strip() for cell in row.strip("|").split("|")[:2])
            for key in re.findall(r"`([\w.]+)`", first):
                value = yaml.safe_load(default.strip("`")) if default else None
                if value in ("none", None) or not re.fullmatch(r"`.*`|true|false|\d+", default):
                    value = None  # said in words: null, or taken from another value
                is_same = any(
                    value == each or (value is None and "${" in str(each))
                    for each in known.get(key, [value])
                )
                wrong += [] if is_same or key == "model.name" else [(key, default)]
    assert wrong == []
