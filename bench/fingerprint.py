"""What a result depends on in the code: a hash of the sources behind a cell, and of no others.

A method or a task depends on the modules of its own package that it imports, at the top of a file or inside a
function, and on theirs; so an edit of Longformer makes Longformer's rows stale and leaves Performer's alone.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from bench.cell import Cell
from bench.model import BASELINE_METHOD

#: The measurement: what every cell, and what every training cell is measured with.
_MEASURED_BY = ("bench.case", "bench.model")
_TRAINED_BY = ("bench.breakdown",)
#: What a method is built into, above level `core`.
_BUILT_INTO = ("methods.encoder", "methods.mixer")
#: Names of everything there is: reading them is no dependence on all of it.
_REGISTRIES = ("methods.registry", "tasks.registry")


def fingerprint(cell: Cell) -> str:
    """16 hexadecimal digits of the source code that a cell's result depends on."""
    modules = [cell.method.target.rpartition(".")[0], "methods.base"]
    if cell.task is not None:
        modules += [cell.task.target.rpartition(".")[0], "tasks.base"]
    if cell.level != "core":
        modules += _BUILT_INTO
    if "latency" in cell.measure.passes:
        modules.append(BASELINE_METHOD.target.rpartition(".")[0])
    return _hashed(tuple(modules), training=cell.train is not None)


@cache
def _hashed(modules: tuple[str, ...], training: bool) -> str:
    files = {file for module in modules for file in sources(module)}
    own = [Path(str(_file(name))) for name in (*_MEASURED_BY, *(_TRAINED_BY if training else ()))]
    for folder in ("measure", "training") if training else ("measure",):
        own += (Path(__file__).parent / folder).glob("*.py")
    content = "\n".join(modules).encode() + b"".join(path.read_bytes() for path in sorted(files | set(own)))
    return hashlib.sha256(content).hexdigest()[:16]


def sources(module: str) -> frozenset[Path]:
    """The files of a module and of all modules of its top-level package that it needs; none without a source."""
    file = _file(module)
    if file is None:
        return frozenset()
    found, pending, seen = {file}, [module], {module}
    while pending:
        for name in _imports(pending.pop()):
            if name in seen or name in _REGISTRIES:
                continue
            seen.add(name)
            if (other := _file(name)) is not None:
                found.add(other)
                pending.append(name)
    return frozenset(found)


@cache
def _file(module: str) -> Path | None:
    """The source file of a module, None for a name that is none (a class, say) or has no Python source."""
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        return None
    origin = spec.origin if spec is not None else None
    return Path(origin) if origin is not None and origin.endswith(".py") else None


@cache
def _imports(module: str) -> tuple[str, ...]:
    """Names of the same top-level package that a module imports anywhere; a package's members count as modules."""
    file = _file(module)
    assert file is not None
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    top = module.partition(".")[0]
    tree = ast.parse(file.read_bytes())
    return tuple(dict.fromkeys(name for name in _named(ast.walk(tree), package) if name.partition(".")[0] == top))


def _named(nodes: Iterable[ast.AST], package: str) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _with_parents(alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            yield from _with_parents(base)
            for alias in node.names:
                yield f"{base}.{alias.name}"


def _with_parents(module: str) -> Iterator[str]:
    """`a.b.c`, and the packages whose `__init__` runs before it."""
    parts = module.split(".")
    for end in range(len(parts), 0, -1):
        yield ".".join(parts[:end])
