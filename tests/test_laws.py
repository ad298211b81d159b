"""The import laws of docs/design.md, section 2, and the shape of the house."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("bench", "methods", "tasks", "reports")
MODULES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    """Dotted names of everything a module imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def roots(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_dependencies_point_one_way(path):
    package = path.relative_to(ROOT).parts[0]
    forbidden = {
        "bench": {"reports"},
        "methods": {"bench", "reports", "tasks"},
        "tasks": {"bench", "reports", "methods"},
        "reports": {"bench", "methods", "tasks", "torch", "hydra"},
    }[package]
    assert not roots(path) & forbidden


@pytest.mark.parametrize("path", sorted((ROOT / "bench").rglob("*.py")), ids=lambda path: path.name)
def test_the_harness_knows_plugins_through_their_registries_only(path):
    foreign = {name for name in imported(path) if name.split(".")[0] in ("methods", "tasks")}
    allowed = ("methods.registry", "tasks.registry")
    assert all(name.startswith(allowed) for name in foreign), foreign


def test_only_the_store_writes_results():
    writers = ("write_text", "write_bytes", ".to_csv", ".to_parquet", "mkdtemp", "mkstemp")
    for path in sorted((ROOT / "bench").rglob("*.py")):
        if path.name in ("store.py", "memory.py"):  # memory.py resets a counter under /proc
            continue
        text = path.read_text()
        assert not [word for word in writers if word in text], path


def test_modules_stay_small():
    long = {str(path): n for path in MODULES if (n := len(path.read_text().splitlines())) > 300}
    assert not long
