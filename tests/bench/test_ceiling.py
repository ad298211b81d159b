"""What the machine can do, and how near a method comes."""

from __future__ import annotations

import time
from typing import Any

import pytest

from bench.collect import ceiling_columns
from bench.execute import Limits
from bench.measure import ceiling
from bench.store import Store
from bench.sweep import run_plan
from tests.bench.conftest import make_plan


def test_the_best_of_several_turns_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 4.0, 4.0, 6.0, 6.0, 9.0, 9.0, 12.0, 12.0, 13.0] * 2)  # 4, 2, 3, 3 and 1 seconds, twice
    monkeypatch.setitem(ceiling.SIDE, "cpu", 10)
    monkeypatch.setitem(ceiling.COPIED, "cpu", 800)
    found = ceiling.measure("cpu", "float64", lambda: next(times))
    assert found == {"matmul_gflops": 2 * 10**3 / 1e9, "copy_gb_per_s": 2 * 800 / 1e9}


def test_rates_of_this_machine_are_of_its_order() -> None:
    found = ceiling.measure("cpu", "float32", time.perf_counter)
    assert 1 < found["matmul_gflops"] < 1e5
    assert 0.5 < found["copy_gb_per_s"] < 1e4


def record(**changes: Any) -> dict[str, Any]:
    cell = {
        "level": "core",
        "mode": "forward",
        "batch_size": 1,
        "heads": 2,
        "seq_len": 1000,
        "head_dim": 10,
        "measure": {"passes": ["latency", "flops"]},
        "hardware": {"dtype": "float32"},
    }
    rates = {"matmul_gflops": 100.0, "copy_gb_per_s": 1.0}
    return {
        "cell": cell | changes,
        "ceiling": rates,
        "flops": 2 * 10**9,
        "results": {"memory": {"state_mib": 1.0}},
    }


def test_floor_and_utilisation_by_hand() -> None:
    row = ceiling_columns(record(), 0.04)
    assert row["floor_ms"] == pytest.approx(20)  # 2e9 operations at 1e11 a second
    assert row["floor_share"] == row["utilisation"] == pytest.approx(0.5)
    moving = record() | {"flops": 1}
    assert ceiling_columns(moving, 1.0)["floor_ms"] == pytest.approx(4 * 20_000 * 4 / 1e9 * 1e3)  # q, k, v, out
    training = record(mode="train") | {"flops": 1}
    assert ceiling_columns(training, 1.0)["floor_ms"] == pytest.approx(12 * 20_000 * 4 / 1e9 * 1e3)
    decoding = record(mode="decode", measure={"passes": ["latency"]})
    assert ceiling_columns(decoding, 1.0)["floor_ms"] == pytest.approx(2**20 / 1e9 * 1e3)
    assert ceiling_columns(decoding, 1.0)["utilisation"] is None
    assert ceiling_columns(record() | {"ceiling": {}}, 1.0) == {}


def test_a_sweep_measures_it_once_and_writes_it(tmp_path: Any) -> None:
    plan = make_plan("method=sdpa", "method=linear")
    summary = run_plan(plan, Store(tmp_path, "run"), Limits(), "none", bar=False)
    rates = [record["ceiling"] for record in summary.records]
    assert rates[0] == rates[1]
    assert rates[0]["matmul_gflops"] > 0
    header, *rows = (tmp_path / "run" / "efficiency.csv").read_text().splitlines()
    column = header.split(",").index("floor_share")
    assert len(rows) == 2
    assert "floor_share" in header
    assert column > 0
