"""Recommendations from made-up rows whose best method is known."""

from __future__ import annotations

import json
import math
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from synthetic_run import LENGTHS, Row, Tables, cost, failed, identity, synthetic_run, trained

from reports.fits import predict
from reports.load import load
from reports.question import ask
from reports.recommend import main
from reports.recommendation import Recommendation, recommend

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_run().write(tmp_path_factory.mktemp("runs") / "synthetic")


def write(folder: Path, rows: list[Row], **others: list[Row]) -> Path:
    tables = Tables()
    tables.rows |= {"efficiency": rows, **others}
    return tables.write(folder)


def only(folder: Path, question: str) -> Recommendation:
    (found,) = recommend(load([folder]), ask(question.split()))
    return found


def best(found: Recommendation) -> str | None:
    return found.best.contender.series if found.best else None


def reasons(found: Recommendation) -> dict[str, str]:
    return {one.series: one.reason for one in found.excluded}


def said(arguments: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main([str(folder), *arguments.split()])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_fastest_with_its_runner_up_margin_and_exact_choice(folder: Path) -> None:
    found = only(folder, "seq_len=8192 memory_gib=8 mode=train")
    assert best(found) == "linformer · rank 128"
    assert found.runner_up is not None
    assert found.runner_up.contender.series == "performer · features 128"
    assert found.margin == pytest.approx(3.4 / 2.2)
    assert not found.tie
    assert found.exact is not None
    assert found.exact.contender.series == "sdpa"
    assert reasons(found) == {"full": "skipped: 4096 ran out of memory"}
    assert found.gaps == []


def test_memory_is_that_of_inputs_parameters_and_peak(folder: Path) -> None:
    # At 8K in training: 198.4 MiB of peak, 48 of inputs, 0.5 of parameters.
    found = only(folder, f"seq_len=8192 mode=train memory_gib={247 / 1024}")
    assert best(found) == "linformer · rank 128"
    assert found.best is not None
    assert found.best.footprint_mib == pytest.approx(8 * 8 * 3.1 + 6 * 8 + 0.5)
    less = only(folder, f"seq_len=8192 mode=train memory_gib={246 / 1024}")
    assert best(less) is None
    assert reasons(less)["sdpa"] == "needs 0.241 GiB, more than 0.240234"


def test_an_error_limit_leaves_the_close_and_the_exact(folder: Path) -> None:
    found = only(folder, "seq_len=8192 error=0.1")
    assert best(found) == "reformer · hashes 4"
    assert reasons(found)["linformer · rank 128"] == "an output error of 0.900, more than 0.1"
    assert best(only(folder, "seq_len=8192 error=0")) == "sdpa"


def test_an_accuracy_counts_for_the_configuration_that_was_trained(tmp_path: Path) -> None:
    rows = [cost(method, 4096) for method in ("sdpa", "performer", "linformer")]
    accuracy = [trained("sdpa", "listops", seed, 0.5) for seed in range(3)]
    accuracy += [trained("performer", "listops", seed, 0.3) for seed in range(3)]
    accuracy += [trained("linformer", "listops", 0, 0.6, budget_value=32)]
    folder = write(tmp_path / "run", rows, accuracy=accuracy)
    found = only(folder, "seq_len=4096 task=listops accuracy=0.4")
    assert best(found) == "sdpa"
    assert found.best is not None
    assert found.best.accuracy is not None
    assert found.best.accuracy.count == 3
    assert reasons(found) == {
        "linformer · rank 128": "was not trained on listops like this, only with rank 32",
        "performer · features 128": "30.0 % [27.0, 33.0] on listops, less than 40.0 %, by 3 seeds",
    }
    assert found.gaps == [("linformer · rank 128", "accuracy")]


def test_one_seed_is_too_few(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [cost("sdpa", 4096), cost("performer", 4096)]
    accuracy = [trained("performer", "listops", 0, 0.5)]
    code, out, _ = said(
        "seq_len=4096 task=listops accuracy=0.49", write(tmp_path / "run", rows, accuracy=accuracy), capsys
    )
    assert code == 0
    assert "50.0 % [47.0, 53.0], 1 seed on listops" in out
    assert "an accuracy of 1 seed says little" in out
    assert "its accuracy may be below 49.0 %" in out
    assert "task=listops seed=0,1,2,3,4" in out


def test_seeds_that_failed_are_a_failure(tmp_path: Path) -> None:
    accuracy = [
        trained("performer", "listops", 0, 0.5),
        failed(trained("performer", "listops", 1, 0.5), "diverged", "loss is not finite at step 3"),
    ]
    folder = write(tmp_path / "run", [cost("performer", 4096)], accuracy=accuracy)
    found = only(folder, "seq_len=4096 task=listops accuracy=0.4")
    assert best(found) is None
    assert reasons(found)["performer · features 128"] == "diverged 1 of 2 on listops: loss is not finite at step 3"


def test_what_cannot_be_told_apart_is_said_and_exact_attention_goes_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [cost("sdpa", 4096), cost("performer", 4096)]
    rows[1] |= {"speedup": 1.1, "speedup_low": 0.9, "speedup_high": 1.3}
    folder = write(tmp_path / "run", rows)
    found = only(folder, "seq_len=4096")
    assert best(found) == "sdpa"
    assert found.tie
    code, out, _ = said("seq_len=4096", folder, capsys)
    assert code == 0
    assert "performer · features 128 (1.10\u00d7 [0.90, 1.30] SDPA). The data cannot tell them apart" in out
    assert out.count("run=run-again") == 2


def test_one_that_overlaps_further_behind_is_the_rival(tmp_path: Path) -> None:
    rows = [cost("sdpa", 4096), cost("linformer", 4096), cost("performer", 4096), cost("longformer", 4096)]
    for row, (value, low, high) in zip(rows[1:], [(9, 8.9, 9.1), (8, 7.9, 8.1), (7, 5, 9.5)], strict=True):
        row |= {"speedup": value, "speedup_low": low, "speedup_high": high}
    found = only(write(tmp_path / "run", rows), "seq_len=4096")
    assert best(found) == "linformer · rank 128"
    assert found.tie
    assert found.runner_up is not None
    assert found.runner_up.contender.series == "longformer · window 256"


def test_without_a_memory_pass_it_is_not_known_whether_it_fits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [cost("sdpa", 4096), cost("linformer", 4096) | {"peak_mib": ""}]
    folder = write(tmp_path / "run", rows)
    found = only(folder, "seq_len=4096 memory_gib=8")
    assert best(found) == "sdpa"
    assert reasons(found) == {"linformer · rank 128": "its memory was not measured"}
    _, out, _ = said("seq_len=4096 memory_gib=8", folder, capsys)
    assert "'measure.passes=[memory]'" in out
    assert best(only(folder, "seq_len=4096")) == "linformer · rank 128"


def test_degenerate_configurations_are_no_answer(folder: Path) -> None:
    found = only(folder, "seq_len=256")
    assert reasons(found)["longformer · window 256"] == "equals full attention at this length"


def test_a_length_that_was_not_measured_is_an_estimate_and_marked(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = only(folder, "seq_len=16384 mode=train error=0.5")
    assert not found.measured
    assert found.around == (8192, None)
    assert found.best is not None
    assert best(found) == "longformer · window 256"
    # The made-up law itself: linear from 4 ms at 1024 tokens, three times that and a tenth in training.
    assert found.best.contender.latency_ms == pytest.approx(4 * 3.1 * 16)
    assert reasons(found)["full"].startswith("oom at 4K already")
    assert "reformer · hashes 4" not in reasons(found)  # one hole between successes
    code, out, _ = said("seq_len=16384 mode=train error=0.5", folder, capsys)
    assert code == 0
    assert "NOT MEASURED at 16,384 tokens: 2 times 8K, the longest measured length" in out
    figures = [line for line in out.splitlines() if line.startswith(("  time", "  speed", "  memory"))]
    assert len(figures) == 3
    assert all(line.endswith("(estimate)") for line in figures)
    assert "method=longformer method.window=256" in out
    between = only(folder, "seq_len=3000")
    assert between.around == (2048, 4096)


def test_two_lengths_give_no_estimate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "run", [cost("sdpa", n) for n in (1024, 2048)])
    code, out, _ = said("seq_len=4096", folder, capsys)
    assert code == 1
    assert "sdpa: too few measured lengths for an estimate" in out
    assert "seq_len=4096" in out[out.index("To find out") :]


def test_an_estimate_covers_a_noisy_law() -> None:
    wobble = [1.02, 0.97, 1.01, 1.03, 0.98]
    lengths = [512, 1024, 2048, 4096, 8192]
    found = predict(lengths, [w * n**1.5 for w, n in zip(wobble, lengths, strict=True)], 32768)
    assert found is not None
    assert found.low < 32768**1.5 < found.high
    near = predict(lengths, [w * n**1.5 for w, n in zip(wobble, lengths, strict=True)], 2048)
    assert near is not None
    assert math.log(near.high / near.low) < math.log(found.high / found.low)
    assert predict([1024, 2048], [1, 2], 4096) is None


def test_environments_have_answers_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = [cost("sdpa", 4096), cost("performer", 4096)]
    there = [row | {"env_id": "envB", "device": "cuda", "cell_id": f"{row['cell_id']}B"} for row in here]
    there[1] |= {"speedup": 0.5, "speedup_low": 0.4, "speedup_high": 0.6}
    folder = write(tmp_path / "run", here + there)
    found = {
        one.setting.run.efficiency["env_id"].iloc[0]: best(one)
        for one in recommend(load([folder]), ask(["seq_len=4096"]))
    }
    assert found == {"envA": "performer · features 128", "envB": "sdpa"}
    code, out, _ = said("seq_len=4096 device=cuda", folder, capsys)
    assert code == 0
    assert "envB" in out
    assert "envA" not in out


def test_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said("seq_len=8192 mode=train memory_gib=8 task=listops --json", folder, capsys)
    assert code == 0
    found = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found["question"]["seq_len"] == 8192
    (answer,) = found["answers"]
    assert answer["measured"] is True
    assert answer["environment"] == "envA"
    assert answer["distinguishable"] is True
    chosen = answer["recommended"]
    assert (chosen["method"], chosen["budget_value"], chosen["exact"]) == ("linformer", 128, False)
    assert chosen["latency_ms"] == pytest.approx(2.2 * 8 * 3.1)
    assert chosen["accuracy_seeds"] == 2
    assert answer["excluded"] == [
        {"series": "full", "kind": "failed", "reason": "skipped: 4096 ran out of memory"}
    ]
    code, out, _ = said("seq_len=100000 --json", folder, capsys)
    assert json.loads(out)["answers"][0]["measured"] is False


@pytest.mark.parametrize(
    ("question", "says"),
    [
        ("seq_len=0", "seq_len=0: expected at least 1"),
        ("seq_len=1e3", "seq_len=1e3: expected a whole number"),
        ("seq_len=512 memory_gib=-1", "memory_gib=-1: expected a number above 0"),
        ("seq_len=512 memory_gib=nan", "memory_gib=nan: expected a number above 0"),
        ("seq_len=512 error=x", "error=x: expected a number of 0 or more"),
        ("seq_len=512 mode=training", "mode=training: no such mode; there are forward, train, decode"),
        ("seq_len=512 mode=decode", "mode=decode: not in synthetic, which has forward and train; to measure it:"),
        ("seq_len=512 speed=3", "speed: no such key; there are seq_len, mode, memory_gib"),
        ("seq_len=512 seq_len=1024", "seq_len: given twice"),
        ("seq_len=", "seq_len: has no value"),
        ("mode=train", "seq_len is missing"),
        ("seq_len=512 accuracy=0.5", "accuracy: on which task?"),
        ("seq_len=512 task=listops accuracy=50", "accuracy=50: expected a number from 0 to 1"),
        ("seq_len=512 task=pathx", "task=pathx: not in synthetic, which has image, listops and text"),
        ("seq_len=512 device=cuda", "device=cuda: not in synthetic, which has cpu"),
        ("seq_len=512 causal=true", "causal=true: not in synthetic, which has false"),
    ],
)
def test_a_bad_question_is_one_line(
    folder: Path, question: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = said(question, folder, capsys)
    assert code == 2
    assert out == ""
    assert err.startswith(f"reports.recommend: {says}")
    assert err.count("\n") == 1


def test_no_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = said("seq_len=512", tmp_path, capsys)
    assert (code, err.count("\n")) == (2, 1)
    assert "no rows in any of efficiency.csv" in err
    folder = write(tmp_path / "run", [], accuracy=[trained("sdpa", "text", 0, 0.5)])
    code, _, err = said("seq_len=512", folder, capsys)
    assert (code, err.count("\n")) == (2, 1)
    assert "no costs in it" in err


def test_all_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [failed(cost(method, 512), "oom", "needs 9 GiB") for method in ("sdpa", "performer")]
    code, out, _ = said("seq_len=512", write(tmp_path / "run", rows), capsys)
    assert code == 1
    assert "No method of this run fits." in out
    assert "performer · features 128: oom: needs 9 GiB" in out


def test_without_a_run_the_only_one_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["seq_len=512"]) == 2
    assert "none in results" in capsys.readouterr().err
    write(tmp_path / "results" / "a", [cost("sdpa", 512)])
    assert main(["seq_len=512"]) == 0
    write(tmp_path / "results" / "b", [cost("sdpa", 512)])
    assert main(["seq_len=512"]) == 2
    assert "name one of the runs in results: results/a, results/b" in capsys.readouterr().err


def test_the_commands_are_accepted_by_the_harness(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from bench.cli import check

    axes: dict[str, Any] = {"heads": 4, "causal": True, "dtype": "bfloat16", "batch_size": 2}
    rows = [cost("performer", n, method_params='{"kernel":"relu"}', **axes) for n in LENGTHS]
    rows += [cost("performer", n, method_params='{"kernel":"positive"}', **axes) for n in LENGTHS]
    rows[4] |= {"peak_mib": ""}
    accuracy = [trained("performer", "listops_mini", 0, 0.5, method_params='{"kernel":"positive"}')]
    folder = write(tmp_path / "run", rows, accuracy=accuracy)
    printed: list[str] = []
    firsts: list[str] = []
    for question in ("seq_len=16384", "seq_len=4096 memory_gib=8", "seq_len=4096 task=listops_mini accuracy=0.1"):
        _, out, _ = said(f"{question} causal=true", folder, capsys)
        lines = [line.strip() for line in out.splitlines() if line.startswith("  python ")]
        printed += lines
        firsts += lines[:1]  # composing takes a second
    assert len(printed) >= 5
    assert any("method.kernel=relu" in line and "heads=4" in line and "causal=true" in line for line in printed)
    assert any("-m " in line and "task=listops_mini" in line for line in printed)
    assert len(firsts) == 3
    for line in firsts:
        words = shlex.split(line)
        assert words[:2] == ["python", "bench/run.py"]
        check(words[2:])


def test_the_errors_of_the_other_direction_do_not_count(tmp_path: Path) -> None:
    rows = [cost("performer", 4096) | {"output_error": ""}]
    error = identity("performer", seq_len=4096, causal=True) | {"qk_norm": 1.0, "output_error": 0.01}
    folder = write(tmp_path / "run", rows, errors=[error])
    found = only(folder, "seq_len=4096 error=0.1")
    assert reasons(found) == {"performer · features 128": "its output error was not measured"}


def test_the_command_beside_the_harness_answers_the_same(folder: Path) -> None:
    words = [str(folder), "seq_len=8192", "mode=train"]
    command = [sys.executable, str(REPOSITORY / "bench" / "recommend.py"), *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Use linformer · rank 128." in done.stdout
