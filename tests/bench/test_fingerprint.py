"""An edit marks the rows of what it touches, and no others."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench import fingerprint as module
from bench.fingerprint import fingerprint, sources
from methods.registry import METHODS
from tasks.registry import TASKS
from tests.bench.conftest import make_plan

ROOT = Path(__file__).parents[2]


def names(target: str) -> set[str]:
    return {str(path.relative_to(ROOT)) for path in sources(target.rpartition(".")[0])}


@pytest.mark.parametrize("target", [*METHODS.values(), *TASKS.values()])
def test_a_class_depends_on_its_file_and_its_contract_and_on_no_registry(target: str) -> None:
    found = names(target)
    own = target.rpartition(".")[0].replace(".", "/")
    assert found & {f"{own}.py", f"{own}/__init__.py"}
    assert target.split(".")[0] + "/base.py" in found
    assert not {"methods/registry.py", "tasks/registry.py"} & found
    assert all(name.startswith(target.split(".")[0]) for name in found)


def test_what_longformer_is_made_of_is_not_what_performer_is_made_of() -> None:
    longformer, performer = names(METHODS["longformer"]), names(METHODS["performer"])
    assert "methods/longformer/attention.py" in longformer - performer
    assert "methods/ops/kernelised.py" in performer - longformer
    assert {"methods/base.py", "methods/ops/dense.py"} <= longformer & performer
    assert "tasks/pathfinder/growth.py" in names(TASKS["pathfinder"])  # imported inside a function
    assert "tasks/pathfinder/growth.py" not in names(TASKS["listops"])


def test_an_edit_changes_the_fingerprint_of_its_own_cells_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "attention_of_mine"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "one.py").write_text("def f():\n    from .shared import x\n    return x\n")
    (package / "two.py").write_text("import attention_of_mine.other as o\n")
    (package / "shared.py").write_text("x = 1\n")
    (package / "other.py").write_text("y = 1\n")
    monkeypatch.syspath_prepend(tmp_path)

    def marks() -> list[str]:
        for cached in (module._hashed, module._file, module._imports):
            cached.cache_clear()
        return [module._hashed((f"attention_of_mine.{name}",), training=False) for name in ("one", "two")]

    before = marks()
    (package / "shared.py").write_text("x = 2\n")
    after = marks()
    assert after[0] != before[0]
    assert after[1] == before[1]
    sys.modules.pop("attention_of_mine", None)
    for cached in (module._hashed, module._file, module._imports):
        cached.cache_clear()


def test_levels_and_training_depend_on_more() -> None:
    lines = (
        "method=linear",
        "method=linear level=mixer",
        "method=linear task=mqar_mini seq_len=null",
        "method=linear seq_len=512",
    )
    core, mixer, task, longer = (fingerprint(make_plan(line)[0].cell) for line in lines)
    assert len({core, mixer, task}) == 3
    assert longer == core


def test_a_module_without_source_counts_by_its_name() -> None:
    assert sources("attention_that_is_not_there") == frozenset()
    assert sources("_json") == frozenset()
