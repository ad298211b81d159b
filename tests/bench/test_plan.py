"""Planning: the quick way comes to the same cells as the plain one, and every cell is looked at once."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import hydra
import pytest

from bench import build, cli
from bench import compose as composition
from bench.build import facts, facts_of
from bench.cell import digest
from bench.compose import Composer, hydra_context, typed
from bench.errors import Refused
from bench.plan import expand
from bench.resolve import cell_from_config, cell_from_settings
from methods.registry import METHODS
from tests.bench.conftest import make_cell

GRIDS = [
    {
        "method": ["sdpa", "performer method.features=64", "longformer method.window=32", "linear"],
        "seq_len": [64, None],
        "mode": ["forward", "train"],
        "level": [None, "mixer", "model"],
        "heads": [None, 3],
        "seed": [0, 2],
    },
    {
        "method": ["sdpa", "linformer"],
        "task": ["copying", "mqar"],
        "model": ["tiny", "base"],
        "task.train.lr": [0.001, 0.01],
        "causal": [None, False],
        "batch_size": [None, 8],
        "seed": [0, 5],
    },
    {
        "method": ["linear", "sdpa"],
        "mode": "decode",
        "measure": ["default", "cost"],
        "measure.passes": [["latency"], None],
        "hardware.dtype": ["float32", "bfloat16"],
        "head_dim": [8, None],
    },
    {
        "method": "longformer",
        "model.layers": 2,
        "level": "model",
        "method.window": [[16, 32], 8],
        "seq_len": [64, 96],
    },
    {"+model.width": [64], "level": "model", "seed": [0, 1]},
    {"model.width": ["'${seq_len}'"], "seq_len": [32, 64], "level": "model"},
]


@pytest.mark.parametrize("grid", GRIDS, ids=range(len(GRIDS)))
def test_quick_and_plain_composition_give_equal_cells(grid):
    with hydra_context():
        quick, plain = Composer(), Composer()
        lines = expand(grid, ["measure.min_rounds=4"])
        for line in lines:
            want = cell_from_config(plain.compose(line))
            got = cell_from_settings(quick.settings(line))
            assert got == want, line
            assert (got.cell_id, got.config_id, got.data_dir) == (want.cell_id, want.config_id, want.data_dir)
    assert len(lines) > 1


@pytest.mark.parametrize(
    "line",
    [
        "method=performer task=listops_mini",
        "task=copying method=longformer measure=cost model=base",
        "hardware=cuda measure=error method=reformer",
        "task=image_mini model=lra_image method=custom hardware=mps",
    ],
)
def test_choices_put_together_are_what_hydra_makes_of_them(line, monkeypatch):
    with hydra_context():
        want = typed(hydra.compose("config", overrides=line.split()))
        composer = Composer()
        for item in ([], *([item] for item in line.split())):
            composer.settings(item)
        monkeypatch.setattr(composition, "_hydra_compose", None)  # there is no need of it any more
        got = composer.settings(line.split())
    assert got == want
    assert repr(got) == repr(want)  # which tells 1 from 1.0 and from True


def test_choices_that_reach_into_others_are_left_to_hydra(tmp_path):
    shutil.copytree(composition.CONF, tmp_path / "conf")
    cpu = (tmp_path / "conf" / "hardware" / "cpu.yaml").read_text()
    lines = [
        "# @package _global_",
        "model:",
        "  layers: 7",
        "hardware:",
        *(f"  {line}" for line in cpu.splitlines()),
    ]
    (tmp_path / "conf" / "hardware" / "reaching.yaml").write_text("\n".join(lines))
    with hydra_context(str(tmp_path / "conf")):
        assert Composer().settings(["method=performer", "model=base", "hardware=reaching"]).model.layers == 7


@pytest.mark.parametrize(
    "line",
    [
        "seq_len=abc",
        "seq_len=0",
        "seed=-1",
        "mode=backward",
        "level=core task=copying",
        "sequence=3",
        "method.window=3",
        "method=longformer method.window=x",
        "heads=[1",
        "causal=maybe",
        "batch_size=1.5",
    ],
)
def test_both_ways_refuse_in_the_same_words(line):
    said = []
    with hydra_context():
        for resolve in (
            lambda items: cell_from_config(Composer().compose(items)),
            lambda items: cell_from_settings(Composer().settings(items)),
        ):
            with pytest.raises(Refused) as error:
                resolve(line.split())
            said.append(str(error.value))
    assert said[0] == said[1]


def test_settings_of_one_cell_leave_those_of_the_next_alone():
    with hydra_context():
        composer = Composer()
        for line in (["seed=3", "heads=4"], ["heads=2"], []):
            assert composer.settings(line) == typed(Composer().compose(line))


def test_ids_are_those_of_the_content_as_asdict_gives_it():
    for cell in (make_cell("method=performer"), make_cell("task=copying", "seed=3")):
        plain = asdict(cell)
        del plain["data_dir"], plain["kv_heads"]  # this one is said only where heads are shared
        assert cell.content() == plain
        compared = ("method", "model", "seq_len", "heads", "head_dim", "causal")
        assert cell.config_id == digest({key: plain[key] for key in compared})


#: (cell_id, config_id). Results on disk are known by them; only a parameter that a class gains may change its own.
IDS = {
    "method=linear mode=decode hardware.threads=2": ("87f1e52c010354fc", "723cdd8afd430c93"),
}


@pytest.mark.parametrize("line", IDS)
def test_ids_on_disk_stay_valid(line):
    cell = make_cell(*line.split())
    assert (cell.cell_id, cell.config_id) == IDS[line]


@pytest.mark.parametrize("name", sorted(METHODS))
def test_facts_do_not_depend_on_the_draws(name):
    cell = make_cell(f"method={name}", "seq_len=256", "heads=2", "head_dim=16")
    assert facts(cell) == facts(replace(cell, seed=7))


def test_cells_that_differ_in_seed_and_measurement_alone_are_looked_at_once(monkeypatch):
    seen = []
    monkeypatch.setattr(build, "facts", lambda cell: seen.append(cell) or facts(cell))
    lines = [
        [f"seed={seed}", f"seq_len={n}", f"measure.budget_s={s}"]
        for seed in range(3)
        for n in (32, 64)
        for s in (1, 2)
    ]
    cells = [make_cell(*line) for line in lines]
    assert facts_of(cells) == [facts(cell) for cell in cells]
    assert len(seen) == 2


def test_a_command_plans_once(tmp_path: Path):
    """What was planned to check the command line is what runs."""
    script = (
        "import sys, bench.plan as plan\n"
        "looks, real = [], plan.plan_cells\n"
        "plan.plan_cells = lambda cells: looks.append(len(cells)) or real(cells)\n"
        "from bench import cli\n"
        "try:\n    cli.main()\nexcept SystemExit as end:\n    print('planned', looks, end.code)\n"
    )
    line = ["method=sdpa", "seq_len=32", "measure.passes=[flops]", "memory_limit_mib=1e6", "hydra.job.name=x"]
    command = [sys.executable, "-c", script, *line, f"results_dir={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=120)
    assert "planned [1] 0" in done.stdout, done.stdout + done.stderr
    assert cli.jobs(line, multirun=False) == [line]
