"""The command line from outside: one cell, a multirun, help, a method of one's own."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import cli
from bench.errors import Refused
from bench.show import cell_table
from bench.store import Store
from bench.sweep import run_plan
from methods.registry import METHODS

ROOT = Path(__file__).resolve().parents[2]
FAST = ["seq_len=64", "heads=2", "head_dim=8", "measure.budget_s=0", "measure.min_rounds=3"]
FASTER = [*FAST, "measure.passes=[memory]"]


def bench(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "bench/run.py", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def rows(folder, table="efficiency"):
    with (folder / f"{table}.csv").open() as handle:
        return list(csv.DictReader(handle))


def test_one_cell_prints_its_table_and_says_where_the_rows_are(tmp_path):
    ran = bench("method=performer", *FAST, f"results_dir={tmp_path}", "run=one")
    assert ran.returncode == 0, ran.stderr
    for word in ("time", "tokens/s", "speedup", "over sdpa (sdpa:flash", "peak memory", "MiB", "error", "backend"):
        assert word in ran.stdout
    assert "one/*.csv" in ran.stdout
    (row,) = rows(tmp_path / "one")
    assert row["method"] == "performer"
    assert float(row["speedup_low"]) <= float(row["speedup"]) <= float(row["speedup_high"])
    assert {sample["subject"] for sample in rows(tmp_path / "one", "samples")} == {"method", "baseline"}
    assert any(row["name"] == "torch_version" for row in rows(tmp_path / "one", "environments"))


def test_a_cell_that_fails_exits_with_1_and_has_its_row(tmp_path):
    ran = bench("method=linformer", "causal=true", *FAST, f"results_dir={tmp_path}", "run=one")
    assert ran.returncode == 1
    assert "unsupported: Linformer has no causal form" in ran.stdout
    assert rows(tmp_path / "one")[0]["status"] == "unsupported"


def test_multirun_goes_on_after_a_failure_and_collects(tmp_path):
    ran = bench("-m", "method=linformer,sdpa", "causal=true,false", *FASTER, f"results_dir={tmp_path}", "run=many")
    assert ran.returncode == 1
    found = {(row["method"], row["causal"]): row["status"] for row in rows(tmp_path / "many")}
    assert found == {
        ("linformer", "true"): "unsupported",
        ("linformer", "false"): "ok",
        ("sdpa", "true"): "ok",
        ("sdpa", "false"): "ok",
    }


def test_a_launcher_of_hydra_can_be_chosen():
    cli.check(["--multirun", "hydra/launcher=basic", "method=linear", "seq_len=64"])
    with pytest.raises(Refused, match="nonsense"):
        cli.check(["--multirun", "hydra/launcher=nonsense", "method=linear"])


def test_help_and_cfg_are_useful():
    helped = bench("--help")
    assert helped.returncode == 0
    for word in (f"method: {', '.join(sorted([*METHODS, 'custom']))}", "sweep=quick", "seq_len"):
        assert word in helped.stdout
    config = bench("--cfg", "job", "method=longformer", "method.window=64")
    assert config.returncode == 0
    assert "window: 64" in config.stdout


def test_a_method_of_ones_own_from_outside_the_package(tmp_path):
    target = "method._target_=cosine_attention.CosineAttention"
    arguments = ["method=custom", target, "+method.temperature=0.2", "method.name=cosine", *FASTER]
    for isolation in ("forkserver", "subprocess"):
        ran = bench(
            *arguments,
            f"results_dir={tmp_path}",
            f"run={isolation}",
            f"isolation={isolation}",
            PYTHONPATH=str(ROOT / "examples"),
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        (row,) = rows(tmp_path / isolation)
        assert (row["method"], row["method_params"]) == ("cosine", '{"temperature":0.2}')


def test_a_config_dir_of_ones_own(tmp_path):
    (tmp_path / "method").mkdir()
    target = "_target_: cosine_attention.CosineAttention"
    (tmp_path / "method" / "cosine.yaml").write_text(f"name: cosine\n{target}\ntemperature: 0.3\n")
    ran = bench(
        "--config-dir",
        str(tmp_path),
        "-m",
        "method=cosine,sdpa",
        "method.name=mine",
        *FASTER,
        f"results_dir={tmp_path}",
        "run=own",
        PYTHONPATH=str(ROOT / "examples"),
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert {row["method_params"] for row in rows(tmp_path / "own")} == {'{"temperature":0.3}', '{"kernel":"auto"}'}


def test_the_example_equals_its_reference(monkeypatch):
    import torch

    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    from cosine_attention import CosineAttention

    from methods.registry import Shape

    for causal in (False, True):
        method = CosineAttention(Shape(2, 8, 30, causal), temperature=0.3)
        q, k, v = torch.randn(3, 2, 2, 30, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        assert torch.allclose(method(q, k, v), method.dense_reference(q, k, v), atol=1e-12)


@pytest.mark.parametrize("line", ["task=copying task.train.steps=4", "level=mixer", "level=model mode=train"])
def test_other_kinds_of_cells_run(tmp_path, line):
    _, plan, limits, rerun = cli.compose([*line.split(), "measure.budget_s=0"])
    (record,) = run_plan(plan, Store(tmp_path, "one"), limits, rerun, bar=False).records
    assert record["status"] == "ok", record["reason"]
    assert "ok" in dict(line.split(maxsplit=1) for line in cell_table(record).splitlines())["status"]


def test_disk_trouble_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    ran = bench(*FAST, f"results_dir={tmp_path}/file")
    assert ran.returncode == 1
    assert ran.stderr.startswith("attnbench: cannot write")
    assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize("isolation", ["forkserver", "subprocess"])
def test_a_harness_in_the_working_directory_is_not_taken_for_ours(tmp_path, isolation):
    for package in ("bench", "methods"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise ImportError('another harness')")
    command = [sys.executable, str(ROOT / "bench" / "run.py"), *FAST, f"isolation={isolation}", "results_dir=."]
    ran = subprocess.run([*command, "measure.passes=[memory]"], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize(
    "arguments", [["--help"], ["method=sdpa", "seq_len=32", "heads=1", "measure.passes=[memory]"]]
)
def test_a_reader_that_leaves_is_told_of_in_one_line(arguments: list[str], tmp_path: Path) -> None:
    """As `| head` does."""
    line = [sys.executable, "bench/run.py", *arguments]
    if arguments != ["--help"]:
        line += [f"results_dir={tmp_path}", "run=unread"]
    running = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout is not None
    running.stdout.close()
    assert running.stderr is not None
    said = running.stderr.read().strip().splitlines()
    assert running.wait() == 1
    assert said[-1].startswith("attnbench: the reader of the output has left")
    assert not any("Traceback" in line or "HYDRA_FULL_ERROR" in line for line in said)
    if arguments != ["--help"]:
        assert len(list((tmp_path / "unread" / "cells").glob("*.json"))) == 1
