"""Training by command: killed and resumed, under torchrun, refused."""

import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.cli import check
from bench.errors import Refused
from bench.training.loop import train
from tests.bench.training.conftest import SMALL, computed, losses, of_task, quiet, small

ROOT = Path(__file__).resolve().parents[3]
RUN = [sys.executable, "bench/run.py"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "bench/run.py"]


def rows(folder, table):
    with (folder / f"{table}.csv").open() as handle:
        return list(csv.DictReader(handle))


def same(found: dict, row: dict) -> None:
    """A result and its row in the CSV file."""
    for key in ("accuracy", "dev_accuracy", "train_loss", "best_step", "steps", "test_targets", "pretrain_loss"):
        assert row[key] == format(found[key], ".9g"), key


def test_killed_and_run_again_it_ends_with_the_same_bits(tmp_path):
    settings = ["method=reformer", "method.chunk=8", "model.dropout=0.1", "task.train.pretrain=masked"]
    settings += ["task.train.steps=100", "task.train.pretrain_steps=20", "task.train.eval_every=10"]
    command = [*RUN, *SMALL, *settings, "checkpoint_s=0", f"results_dir={tmp_path}", "run=killed"]
    whole = train(small(*settings), quiet)
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    folder, deadline = tmp_path / "killed", time.monotonic() + 90
    while not list(folder.glob("checkpoints/*.pt")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert list(folder.glob("checkpoints/*.pt"))
    assert not list(folder.glob("cells/*.json"))
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "going on after step" in ran.stderr
    (row,) = rows(folder, "accuracy")
    assert row["resumed"] == "1"
    same(whole, row)
    curve = computed(whole)["curve"]
    found = [{key: point[key] for key in curve[0]} for point in rows(folder, "curves")]
    assert found == [{key: format(value, ".9g") for key, value in point.items()} for point in curve]
    assert not list((folder / "checkpoints").iterdir())


@pytest.mark.timeout(180)
def test_two_processes_under_torchrun_lose_what_one_does(tmp_path):
    """Longformer has projections that a batch without global tokens leaves unused."""
    settings = ["method=longformer", "method.window=4", "method.global_tokens=0", of_task("Ragged")]
    settings += ["hardware.dtype=float64", "task.train.pretrain=masked", "task.train.accumulate=2"]
    alone = train(small(*settings), quiet)
    command = [*TORCHRUN, "-m", *SMALL, *settings, "seed=0,1", f"results_dir={tmp_path}", "run=two"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr
    found = rows(tmp_path / "two", "accuracy")
    assert [row["status"] for row in found] == ["ok", "ok"]
    (row,) = (row for row in found if row["seed"] == "0")
    assert (row["processes"], row["test_targets"]) == ("2", str(alone["test_targets"]))
    curve = [point for point in rows(tmp_path / "two", "curves") if point["seed"] == "0"]
    together = [float(value) for point in curve for value in (point["train_loss"], point["dev_loss"])]
    assert together == pytest.approx(losses(alone), rel=1e-8)
    assert float(row["pretrain_loss"]) == pytest.approx(alone["pretrain_loss"], rel=1e-8)
    assert row["accuracy"] == format(alone["accuracy"], ".9g")


def test_torchrun_refuses_in_one_line():
    ran = subprocess.run([*TORCHRUN, "task=copying", "seed=-1"], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode != 0
    assert ran.stderr.count("attnbench: seed=-1: expected") == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("task.train.schedule=cosin", "cosin"),
        ("task.train.betas=[0.9]", r"task.train.betas=\[0.9\]: expected two numbers from 0 to below 1"),
        ("task.train.betas=[0.9,1.0]", r"task.train.betas=\[0.9, 1.0\]: expected two numbers"),
        ("task.train.eps=-1", "task.train.eps=-1.0: expected a number >= 0"),
        ("task.train.grad_clip_value=-1", "task.train.grad_clip_value=-1.0: expected a number >= 0"),
        ("task.train.accumulate=0", "task.train.accumulate=0: expected a number >= 1"),
        (
            "task.train.accumulate=65",
            "task.train.accumulate=65: expected at most one piece for each of the batch's 64 rows",
        ),
        ("task.train.stratify=true", "task.train.stratify=true: this task has a target a token"),
        ("task.train.patience=0", "task.train.patience=0: expected a number >= 1"),
        ("task.train.eval_batch_size=0", "task.train.eval_batch_size=0: expected a number >= 1"),
        ("task.train.pretrain=mlm", "mlm"),
        ("task.train.pretrain=causal", "task.train.pretrain=causal: needs causal=true"),
        (
            "task.train.pretrain=masked task.train.pretrain_mask=0",
            "task.train.pretrain_mask=0.0: expected a share above 0",
        ),
        ("task.train.pretrain_mask=1.5", "task.train.pretrain_mask=1.5: expected a number from 0 to 1"),
        ("task.train.pretrain_steps=0", "task.train.pretrain_steps=0: expected a number >= 1"),
        ("checkpoint_s=-1", "checkpoint_s=-1.0: expected a number >= 0"),
    ],
)
def test_refused_in_one_line(line, message):
    with pytest.raises(Refused, match=message) as caught:
        check(["task=copying", *line.split()])
    assert "\n" not in str(caught.value)
