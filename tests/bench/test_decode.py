"""One token after many: what is measured, what it needs, who can."""

from __future__ import annotations

import pytest
import torch

from bench.case import build_case
from bench.errors import Refused
from bench.worker import work
from methods.registry import METHODS
from tests.bench.conftest import make_cell, make_plan

DECODERS = ("sdpa", "full", "linear", "local method.window=16", "performer method.features=16")


@pytest.mark.parametrize("method", DECODERS)
def test_a_call_is_the_next_row_of_the_causal_form_and_may_be_repeated(method: str) -> None:
    cell = make_plan(f"method={method} mode=decode seq_len=50")[0].cell
    assert cell.causal
    case = build_case(cell, cell.method)
    token = case.inputs[:3]
    first, second = (case.call()[0] for _ in range(2))  # type: ignore[index]
    assert torch.equal(first, second)
    attention = case.module
    forward = make_plan(f"method={method} seq_len=50 causal=true")[0].cell
    q, k, v = build_case(forward, forward.method).inputs
    # the sequence of the cell's 50 tokens, and its last one once more
    again = make_plan(f"method={method} seq_len=51 causal=true")[0].cell
    longer = build_case(again, again.method).module
    longer.load_state_dict(attention.state_dict())
    rows = [torch.cat([x, part], dim=2) for x, part in zip((q, k, v), token, strict=True)]
    with torch.no_grad():
        want = longer(*rows)[:, :, -1:]
    assert torch.allclose(first, want, atol=1e-5)


def test_state_grows_with_the_cache_and_not_with_the_features() -> None:
    def state(method: str, n: int) -> int:
        cell = make_plan(f"method={method} mode=decode seq_len={n}")[0].cell
        found = build_case(cell, cell.method).state_bytes
        assert found is not None
        return found

    assert state("sdpa", 128) == 2 * state("sdpa", 64) == 2 * 2 * 64 * 2 * 8 * 4
    assert state("linear", 128) == state("linear", 64)
    assert state("local method.window=16 method.sinks=0", 64) == 2 * 16 * 2 * 8 * 4


def test_the_passes_of_a_decoding_cell() -> None:
    cell = make_plan("method=linear mode=decode seq_len=64")[0].cell
    assert cell.measure.passes == ("latency", "memory")
    messages: list[dict[str, object]] = []
    work({"passes": list(cell.measure.passes), "cell": cell.content(), "memory_limit_mib": None}, messages.append)
    results = {m["pass"]: m["value"] for m in messages if m["event"] == "result"}
    assert messages[-1]["event"] == "done", messages[-1]
    assert results["latency"]["tokens"] == 1  # type: ignore[index]
    assert results["memory"]["state_mib"] > 0  # type: ignore[index]


@pytest.mark.parametrize("name", METHODS)
def test_methods_without_a_token_by_token_form_are_unsupported(name: str) -> None:
    item = make_plan(f"method={name} mode=decode seq_len=64")[0]
    if item.facts.verdict is not None:
        assert item.facts.verdict[0] == "unsupported"
    else:
        assert item.facts.work > 0


@pytest.mark.parametrize("line", ["level=mixer", "causal=false", "task=mqar_mini", "measure.passes=[error]"])
def test_what_decoding_does_not_go_with(line: str) -> None:
    with pytest.raises(Refused, match="decode"):
        make_cell("method=linear", "mode=decode", line)
