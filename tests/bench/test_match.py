"""Budgets that cost alike."""

from __future__ import annotations

import pytest

from bench.errors import Refused
from bench.match import amount, matched, reached
from tests.bench.conftest import make_cell

BUDGETED = ["longformer", "local", "linformer", "performer", "nystromformer", "topk", "bigbird", "reformer"]


@pytest.mark.parametrize("method", BUDGETED)
def test_flops_come_near_to_what_was_asked_for(method: str) -> None:
    cell = matched(make_cell(f"method={method}", "seq_len=2048", "match=flops:0.3"))
    share = reached(cell)
    assert share is not None
    coarse = method in ("bigbird", "reformer", "topk")  # blocks, hashing and scoring cost what they cost
    assert coarse or 0.85 * 0.3 <= share <= 1.15 * 0.3


def test_the_nearest_of_all_windows_is_found_to_a_step() -> None:
    """Against every even window: none is nearer by more than the step of the search."""
    cell = make_cell("method=longformer", "seq_len=256", "match=flops:0.2")
    base = amount(make_cell("method=sdpa", "seq_len=256"), "flops")
    shares = {
        window: amount(make_cell("method=longformer", "seq_len=256", f"method.window={window}"), "flops") / base
        for window in range(2, 128, 2)
    }
    best = min(shares, key=lambda window: abs(shares[window] - 0.2))
    chosen = matched(cell).method.params["window"]
    assert abs(chosen - best) <= best / 8


def test_state_and_parameters() -> None:
    state = matched(make_cell("method=local", "seq_len=1024", "mode=decode", "match=state:0.25"))
    assert reached(state) == pytest.approx(0.25, rel=0.13)
    wide = matched(make_cell("method=linformer", "task=listops_512", "model=tiny", "match=parameters:1.2"))
    assert reached(wide) == pytest.approx(1.2, rel=0.1)


def test_a_method_without_a_budget_and_no_match_stay_as_they_are() -> None:
    plain = make_cell("method=longformer")
    assert matched(plain) is plain
    assert reached(plain) is None
    linear = make_cell("method=linear", "match=flops:0.5")
    assert matched(linear) is linear
    assert reached(linear) is not None


@pytest.mark.parametrize("text", ["flops", "flops:0", "flops:-1", "speed:0.5", "flops:much", ":1"])
def test_what_is_no_match(text: str) -> None:
    with pytest.raises(Refused, match="expected flops, state or parameters"):
        matched(make_cell("method=longformer", f"match='{text}'"))


def test_a_method_without_state_cannot_match_it() -> None:
    with pytest.raises(Refused, match=r"token-by-token|no window"):
        matched(make_cell("method=longformer", "match=state:0.5"))
