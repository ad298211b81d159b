"""Cells from command lines, as a user writes them."""

from __future__ import annotations

import signal

import pytest

from bench.cell import Cell
from bench.compose import Composer, hydra_context
from bench.plan import Planned, plan_cells
from bench.resolve import cell_from_settings

# a shell starts jobs in the background with SIGINT ignored, and so they pass it on; tests press Ctrl-C
signal.signal(signal.SIGINT, signal.default_int_handler)

#: Small and quick, whatever else a test asks for.
FAST = ["seq_len=32", "heads=2", "head_dim=8", "measure.budget_s=0", "measure.min_rounds=3"]

MISBEHAVING = "tests.bench.misbehaving"


# one for all tests, as a sweep has one for all its cells
_COMPOSER = Composer()


def make_cell(*overrides: str) -> Cell:
    with hydra_context():
        return cell_from_settings(_COMPOSER.settings(overrides))


def make_plan(*lines: str) -> list[Planned]:
    return plan_cells([make_cell(*FAST, *line.split()) for line in lines])


def misbehaving(name: str, *overrides: str) -> list[Planned]:
    target = f"method._target_={MISBEHAVING}.{name}"
    return plan_cells([make_cell(*FAST, "method=custom", f"method.name={name.lower()}", target, *overrides)])


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ATTNBENCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
