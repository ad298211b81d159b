"""Doubling and bisection, on made-up limits and on real runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench import longest
from bench.errors import BenchError
from tests.bench.conftest import FAST


@pytest.mark.parametrize("limit", [1024, 1500, 5000, 65_536, 100_000])
def test_the_answer_is_known_to_a_sixteenth(limit: int) -> None:
    tried: list[int] = []

    def attempt(length: int) -> dict[str, Any]:
        tried.append(length)
        return {"status": "ok" if length <= limit else "oom", "reason": ""}

    found = longest.search(attempt)
    assert found.longest is not None
    assert found.shortest_failure is not None
    assert found.longest <= limit < found.shortest_failure
    assert found.shortest_failure - found.longest <= found.longest / 16
    assert len(tried) == len(set(tried)) < 20


def test_nothing_fits_and_all_fits() -> None:
    none = longest.search(lambda length: {"status": "oom", "reason": ""})
    assert (none.longest, none.shortest_failure) == (None, 1024)
    every = longest.search(lambda length: {"status": "ok", "reason": ""}, up_to=5000)
    assert (every.longest, every.shortest_failure) == (4096, None)


def test_another_failure_is_no_answer() -> None:
    with pytest.raises(BenchError, match="seq_len=1024: error: boom"):
        longest.search(lambda length: {"status": "error", "reason": "boom"})


@pytest.mark.timeout(240)
def test_on_real_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Materialised softmax of 4 x N x N bytes a head, twice: 1 GiB ends it between 2,048 and 16,384 tokens."""
    line = [item for item in FAST if not item.startswith("seq_len")]
    line = [*line, "method=full", f"results_dir={tmp_path}", "memory_limit_mib=1024"]
    assert longest.main(line) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    fits, fails = (int(word.replace(",", "")) for word in said.split() if word.replace(",", "").isdecimal())
    assert 2048 <= fits < fails <= 16_384
    assert (tmp_path / "longest-1024mib" / "efficiency.csv").exists()
    assert longest.main([*line[:-1]]) == 2
    assert "memory_limit_mib: missing" in capsys.readouterr().err
