"""The shape of the code: no import circles, no long modules, no crowded directories."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_LINES = 300
MAX_MODULES = 12
ONE_FILE_PER_OPTION = {"pipeline/sources", "pipeline/stages", "pipeline/sinks"}


def modules(root: Path) -> dict[str, Path]:
    """Return the modules of both packages by dotted name."""
    found = {}
    for path in sorted(p for top in ("pipeline", "runners") for p in (root / top).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    """Yield the modules that one imports, in functions too; not those for type checkers only."""
    tree = ast.parse(path.read_text())
    for_checkers = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in for_checkers:
            continue
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{path}: a relative import"
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [one if one in known else node.module for one in full]
        yield from (one for one in names if one in known and one != name)


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import one another (Tarjan, 1972)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in order:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], order[other])
        if low[node] == order[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(graph):
        if node not in order:
            visit(node)
    return found


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"a"}, "c": {"a"}}, [["a", "b"]]),
        (
            {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"e"}, "e": {"d"}},
            [["a", "b", "c"], ["d", "e"]],
        ),
    ],
)
def test_circles_are_found(graph: dict[str, set[str]], expected: list[list[str]]) -> None:
    assert circles(graph) == expected


def test_no_import_circles() -> None:
    known = modules(ROOT)
    assert len(known) > 100
    assert circles({name: set(imports(name, path, known)) for name, path in known.items()}) == []


def test_no_long_modules() -> None:
    lines = {name: len(path.read_text().splitlines()) for name, path in modules(ROOT).items()}
    assert {name: n for name, n in lines.items() if n > MAX_LINES} == {}


def test_no_crowded_directories() -> None:
    crowded = {}
    for directory in {path.parent for path in modules(ROOT).values()}:
        n = sum(path.name != "__init__.py" for path in directory.glob("*.py"))
        if n > MAX_MODULES and str(directory.relative_to(ROOT)) not in ONE_FILE_PER_OPTION:
            crowded[str(directory.relative_to(ROOT))] = n
    assert crowded == {}


def test_runners_and_the_library_need_no_hydra_and_no_torch() -> None:
    code = (
        "import sys, pipeline, runners.batch, runners.plan, runners.repair, runners.save\n"
        "import runners.watch.runner\n"
        "assert not {'hydra', 'omegaconf', 'torch', 'cv2'} & sys.modules.keys(), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
