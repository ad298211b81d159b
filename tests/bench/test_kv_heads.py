"""The axis `kv_heads`: what a cell says, what its case is given, what is refused."""

from __future__ import annotations

import pytest
import torch

from bench.build import facts
from bench.case import build_case
from bench.cell import Cell
from bench.errors import Refused
from bench.measure import error
from bench.worker import PASSES, work
from methods.registry import METHODS
from tests.bench.conftest import make_cell, make_plan

SMALL = ["seq_len=32", "heads=4", "head_dim=8", "measure.budget_s=0", "measure.min_rounds=3"]


def test_heads_of_their_own_are_no_other_cell() -> None:
    plain, spelt = make_cell(*SMALL), make_cell(*SMALL, "kv_heads=4")
    assert spelt.kv_heads is None
    assert (plain.cell_id, plain.config_id) == (spelt.cell_id, spelt.config_id)
    assert "kv_heads" not in plain.content()
    shared = make_cell(*SMALL, "kv_heads=2")
    assert {shared.cell_id, shared.config_id}.isdisjoint({plain.cell_id, plain.config_id})
    assert Cell.from_content(shared.content()) == shared
    assert Cell.from_content(plain.content()) == plain


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("kv_heads=3", "kv_heads=3: expected a divisor of heads=4"),
        ("kv_heads=8", "kv_heads=8: expected a divisor of heads=4"),
        ("kv_heads=0", "kv_heads=0"),
        ("kv_heads=2 level=mixer", "kv_heads=2: grouped queries are measured at level=core"),
        ("kv_heads=1 level=model", "kv_heads=1: grouped queries are measured at level=core"),
    ],
)
def test_what_is_refused(line: str, said: str) -> None:
    with pytest.raises(Refused, match=said):
        make_cell(*SMALL, *line.split())


@pytest.mark.parametrize("name", METHODS)
def test_every_method_runs_or_says_why_not(name: str) -> None:
    item = make_plan(f"method={name} heads=4 kv_heads=2 seq_len=128 mode=train")[0]
    if item.facts.verdict is not None:
        assert item.facts.verdict[0] == "unsupported"
        return
    case = build_case(item.cell, item.cell.method)
    assert [tuple(x.shape) for x in case.inputs] == [(1, 4, 128, 8), (1, 2, 128, 8), (1, 2, 128, 8)]
    gradients = case.call()
    assert [x.shape for x in gradients[:3]] == [x.shape for x in case.inputs]  # type: ignore[index]


def test_exact_attention_costs_the_same_operations_and_holds_fewer_keys() -> None:
    plain, shared = (facts(make_cell(*SMALL, *line)) for line in ([], ["kv_heads=1"]))
    assert shared.flops == plain.flops
    own, one = (
        build_case(cell, cell.method).state_bytes
        for cell in (make_cell(*SMALL, "mode=decode", *line) for line in ([], ["kv_heads=1"]))
    )
    assert own == 4 * one  # type: ignore[operator]


def test_keys_from_queries_cannot_be_shared() -> None:
    verdict = facts(make_cell(*SMALL, "method=reformer", "kv_heads=2")).verdict
    assert verdict == ("unsupported", "kv_heads=2: reformer makes each head's keys from its queries")


@pytest.mark.parametrize("mode", ["forward", "decode"])
def test_all_passes(mode: str) -> None:
    cell = make_cell(*SMALL, "method=performer", "kv_heads=2", f"mode={mode}")
    messages: list[dict[str, object]] = []
    passes = [name for name in cell.measure.passes if name in PASSES]
    work({"passes": passes, "cell": cell.content(), "memory_limit_mib": None}, messages.append)
    assert messages[-1]["event"] == "done", messages[-1]


def test_a_decoding_call_answers_all_queries_of_a_group() -> None:
    cell = make_cell(*SMALL, "kv_heads=2", "mode=decode")
    out = build_case(cell, cell.method).call()[0]  # type: ignore[index]
    assert out.shape == (1, 2, 2, 8)
    assert torch.isfinite(out).all()


def test_exact_attention_has_no_error() -> None:
    for row in error.measure(make_cell(*SMALL, "method=full", "kv_heads=2", "measure=error"))["errors"]:
        assert row["output_error"] < 1e-6
