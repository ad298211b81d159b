"""Two result sets that differ in known ways."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_run import Row, Tables, cost, failed, identity, trained

from reports.changes import SAME_PEAK_MIB, difference, growth, quotient
from reports.compare import THRESHOLD, compare, main
from reports.load import ReportError, load

SEED = random.Random(0)


def rounds(row: Row, speedup: float, noise: float = 0.02, count: int = 12) -> list[Row]:
    """Samples of a cell whose rounds scatter about a speedup."""
    found = []
    for index in range(count):
        drift = 1 + 0.5 * SEED.random()  # hits both alike
        own = 10 * drift
        base = own * speedup * math.exp(SEED.gauss(0, noise))
        for subject, wall in (("method", own), ("baseline", base)):
            key = {name: row[name] for name in ("schema_version", "run", "cell_id", "config_id", "env_id")}
            found.append({**key, "round": index, "position": 0, "subject": subject, "wall_ms": wall, "calls": 1})
    return found


def run(folder: Path, *, speedups: dict[str, float], accuracy: float = 0.6, **changes: Any) -> Path:
    tables = Tables()
    for method, speedup in speedups.items():
        row = {**cost(method, 1024), **changes}
        tables.rows["efficiency"].append(row)
        tables.rows["samples"] += rounds(row, speedup)
    tables.rows["accuracy"].append(trained("performer", "listops", 0, accuracy))
    return tables.write(folder)


def judged(before: Path, after: Path, **options: Any) -> dict[str, str]:
    found = compare(load([before]), load([after]), **options)
    return {f"{change.cell} {change.figure}": change.verdict for change in found.changes}


def test_what_became_slower_faster_and_stayed(tmp_path: Path) -> None:
    before = run(tmp_path / "a", speedups={"performer": 2.0, "longformer": 3.0, "linformer": 4.0})
    after = run(tmp_path / "b", speedups={"performer": 1.6, "longformer": 3.6, "linformer": 4.0})
    verdicts = judged(before, after)
    assert verdicts["performer features=128 N=1024 forward speedup"] == "worse"
    assert verdicts["longformer window=256 N=1024 forward speedup"] == "better"
    assert verdicts["linformer rank=128 N=1024 forward speedup"] == "same"
    assert verdicts["performer features=128 N=1024 forward peak"] == "same"
    assert verdicts["performer features=128 N=1024 listops accuracy accuracy"] == "same"


def test_exit_codes_and_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = run(tmp_path / "a", speedups={"performer": 2.0, "longformer": 3.0})
    slower = run(tmp_path / "b", speedups={"performer": 1.6, "longformer": 3.0})
    assert main([str(before), str(before)]) == 0
    assert main([str(before), str(slower)]) == 1
    printed = capsys.readouterr().out
    assert "worse  performer features=128 N=1024 forward" in printed
    assert "1 worse, 1 by more than 5%" in printed
    assert main([str(before), str(slower), "--threshold", "0.5"]) == 0
    assert main([str(slower), str(before)]) == 0  # faster is no regression
    assert main([str(before), str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(before), str(before), "--threshold", "2"])


def test_an_accuracy_that_fell(tmp_path: Path) -> None:
    before = run(tmp_path / "a", speedups={"performer": 2.0}, accuracy=0.6)
    after = run(tmp_path / "b", speedups={"performer": 2.0}, accuracy=0.5)
    found = compare(load([before]), load([after]))
    assert [change.figure for change in found.regressions] == ["accuracy"]


def test_an_error_that_grew(tmp_path: Path) -> None:
    folders = []
    for name, error in (("a", 0.5), ("b", 0.6)):
        tables = Tables()
        tables.rows["efficiency"] = [cost("performer", 1024)]
        measured = {1: 0.25, 2: error}
        base = identity("performer", seq_len=1024)
        tables.rows["errors"] = [base | {"qk_norm": at, "output_error": value} for at, value in measured.items()]
        folders.append(tables.write(tmp_path / name))
    (change,) = compare(load([folders[0]]), load([folders[1]])).regressions
    assert " ".join(change.line().split()) == "worse performer features=128 N=1024 |q|,|k| x 2 error 1.200x"
    assert compare(load([folders[1]]), load([folders[0]])).regressions == []


def test_a_cell_that_fails_now(tmp_path: Path) -> None:
    before, after = Tables(), Tables()
    before.rows["efficiency"] = [cost("full", 8192), cost("sdpa", 8192)]
    after.rows["efficiency"] = [failed(cost("full", 8192), "oom", "needs 4 GiB"), cost("sdpa", 8192)]
    folders = before.write(tmp_path / "a"), after.write(tmp_path / "b")
    (change,) = compare(load([folders[0]]), load([folders[1]])).regressions
    assert change.status == "ok -> oom needs 4 GiB"
    (back,) = [c for c in compare(load([folders[1]]), load([folders[0]])).changes if c.figure == "status"]
    assert back.verdict == "better"


def test_cells_of_one_set_only_and_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = run(tmp_path / "a", speedups={"performer": 2.0, "longformer": 3.0})
    after = run(tmp_path / "b", speedups={"performer": 1.0, "linformer": 4.0})
    found = compare(load([before]), load([after]), shape=True)
    assert found.matched == 2
    assert found.only_before == ["longformer window=256 N=1024 forward"]
    assert found.only_after == ["linformer rank=128 N=1024 forward"]
    assert found.changes == []
    assert main([str(before), str(after), "--shape"]) == 1
    assert "gone   longformer" in capsys.readouterr().out
    assert main([str(before), str(before), "--shape"]) == 0


def test_a_part_of_a_set_lacks_nothing_but_may_have_nothing_new(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = run(tmp_path / "a", speedups={"performer": 2.0, "longformer": 3.0})
    part = run(tmp_path / "b", speedups={"performer": 2.0})
    assert main([str(whole), str(part), "--shape"]) == 1
    assert main([str(whole), str(part), "--shape", "--part"]) == 0
    assert "gone   longformer" in capsys.readouterr().out  # the first time only
    assert main([str(part), str(whole), "--shape", "--part"]) == 1
    assert "new    longformer" in capsys.readouterr().out


def test_other_machines_are_matched_by_what_is_not_ignored(tmp_path: Path) -> None:
    before = run(tmp_path / "a", speedups={"performer": 2.0}, threads=2)
    after = run(tmp_path / "b", speedups={"performer": 2.0}, threads=8)
    assert compare(load([before]), load([after])).matched == 1  # the accuracy
    assert compare(load([before]), load([after]), ignore=["threads"]).matched == 2
    with pytest.raises(ReportError, match="no such axis"):
        compare(load([before]), load([after]), ignore=["weather"])


def test_cells_that_nothing_tells_apart_are_refused(tmp_path: Path) -> None:
    tables = Tables()
    tables.rows["efficiency"] = [cost("sdpa", 1024, cell_id="one"), cost("sdpa", 2048, cell_id="two")]
    folder = tables.write(tmp_path / "a")
    with pytest.raises(ReportError, match="one and two"):
        compare(load([folder]), load([folder]), ignore=["seq_len"])


def test_nothing_in_common(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = Tables(), Tables()
    one.rows["efficiency"], other.rows["efficiency"] = [cost("sdpa", 1024)], [cost("sdpa", 2048)]
    assert main([str(one.write(tmp_path / "a")), str(other.write(tmp_path / "b"))]) == 2
    assert "no cell in common" in capsys.readouterr().err


def test_the_interval_of_a_quotient_covers() -> None:
    """Of pairs of sets that do not differ, about 95 % are called the same."""
    rng = np.random.default_rng(3)
    calls = [
        quotient("x", *np.exp(rng.normal(0, 0.1, (2, 20))), 0.05, seed=i).verdict == "same" for i in range(200)
    ]
    assert 0.9 <= np.mean(calls) <= 1


def test_a_difference_of_proportions_is_newcombe_s() -> None:
    """Newcombe 1998, table II, method 10, case (a): 56/70 - 48/80 is 0.2000, 0.0524 to 0.3339."""
    from bench.stats import share

    first, second = share(48, 80), share(56, 70)
    rows = [{"accuracy": e.value, "accuracy_low": e.low, "accuracy_high": e.high} for e in (first, second)]
    change = difference("x", *rows, threshold=0.05)
    assert (change.value, change.low, change.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-4)


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (10, 10.4, "same"),
        (10, 11, "worse"),
        (10, 9, "better"),
        (0.1, 0.2, "same"),
        (0, 0, "same"),
        (0, 5, "worse"),
    ],
)
def test_peaks(before: float, after: float, verdict: str) -> None:
    assert growth("x", "peak", before, after, THRESHOLD, SAME_PEAK_MIB).verdict == verdict
