"""A run that is cut off goes on to the same bits; a checkpoint that cannot be used says why."""

import resource
import shutil

import pytest
import torch

from bench.cell import Plugin, canonical
from bench.plugin import defaults
from bench.resolve import RESERVED
from bench.training.checkpoint import Checkpoints
from bench.training.loop import train
from methods.registry import Shape
from tests.bench.training.conftest import computed, of_task, quiet, small
from tests.methods.conftest import CASES, METHODS, build, method_class, trains
from tests.methods.conftest import SMALL as BUDGETS

IDENTITY = {"cell_id": "a", "code_fingerprint": "b"}


class Cut(Exception):
    pass


def cut_off(cell, path, after: int, phase: str = "dev") -> None:
    """Train, and stop in the middle of the look after step `after`, before its checkpoint."""

    def stop(step, steps, note):
        if step >= after and phase in note:
            raise Cut

    with pytest.raises(Cut):
        train(cell, stop, Checkpoints(path, identity=IDENTITY))


def resume(cell, path):
    said = []
    return train(cell, quiet, Checkpoints(path, identity=IDENTITY, note=said.append)), said


@pytest.mark.parametrize(("name", "causal"), CASES)
def test_every_method_trains_and_resumes_exactly(name, causal, tmp_path):
    """With dropout, reversible layers, clipped gradients, draws that change from step to step."""
    if not trains(name):
        pytest.skip("declares no backward here")
    build(name, Shape(2, 8, 16, causal), torch.float32)
    cell = small("model.reversible=true", "model.dropout=0.1", "task.train.grad_clip=0.5", f"causal={causal}")
    params = {**defaults(method_class(name), RESERVED["method"]), **BUDGETS.get(name, {})}
    if name == "performer":
        params["redraw"] = 2
    cell = type(cell)(**{**vars(cell), "method": Plugin(name, METHODS[name], canonical(params))})
    whole, path = train(cell, quiet), str(tmp_path / "cell.pt")
    cut_off(cell, path, after=4)
    resumed, said = resume(cell, path)
    assert said == [f"going on after step 2 of training: {cell.describe()}"]
    assert resumed["resumed"] == 1
    assert computed(resumed) == computed(whole)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(("after", "phase"), [(4, "pretraining"), (2, "dev"), (6, "dev")])
def test_both_phases_and_all_formats_resume(dtype, after, phase, tmp_path):
    cell = small(
        of_task("Pair"),
        "method=performer",
        "method.features=8",
        "method.redraw=3",
        "model.dropout=0.1",
        "model.pooled_norm=none",
        "task.train.pretrain=masked",
        "task.train.accumulate=2",
        f"hardware.dtype={dtype}",
    )
    whole, path = train(cell, quiet), str(tmp_path / "cell.pt")
    cut_off(cell, path, after, phase)
    resumed, _ = resume(cell, path)
    assert resumed["resumed"] == 1
    assert computed(resumed) == computed(whole)


def test_a_run_that_had_stopped_early_stays_stopped(tmp_path):
    cell, path = small("task.train.lr=0", "task.train.patience=1", "task.train.steps=30"), str(tmp_path / "c.pt")
    whole = train(cell, quiet)
    cut_off(cell, path, after=4)
    assert computed(resume(cell, path)[0]) == computed(whole)


def test_checkpoints_that_cannot_be_used(tmp_path):
    cell, path = small(), tmp_path / "cell.pt"
    cut_off(cell, str(path), after=4)
    good = path.read_bytes()
    whole = computed(train(cell, quiet))
    for content, trouble in (
        (good[: len(good) // 2], "it cannot be read (cut short, or no checkpoint)"),
        (b"\x00" * 100, "it cannot be read (cut short, or no checkpoint)"),
        (_of("c", "b", tmp_path), "it is of another cell_id, c and not a"),
        (_of("a", "d", tmp_path), "it is of another code_fingerprint, d and not b"),
    ):
        path.write_bytes(content)
        found, said = resume(cell, str(path))
        assert said == [f"checkpoint {path} is not used: {trouble}; the training begins anew"]
        assert (computed(found), found["resumed"]) == (whole, 0)


def _of(cell_id, code, folder):
    other = folder / "other.pt"
    identity = {"cell_id": cell_id, "code_fingerprint": code}
    Checkpoints(str(other), identity=identity).save({"phase": "training"})
    return other.read_bytes()


def test_a_checkpoint_runs_no_code(tmp_path):
    path = tmp_path / "cell.pt"
    torch.save({"identity": IDENTITY, "learner": shutil.rmtree}, path)
    assert Checkpoints(str(path), identity=IDENTITY).load() is None


def test_a_disk_that_fills_keeps_the_checkpoint_before_and_says_so_once(tmp_path):
    said, path = [], tmp_path / "cell.pt"
    checkpoints = Checkpoints(str(path), note=said.append)
    checkpoints.save({"step": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        for step in (2, 3):
            checkpoints.save({"step": step})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert Checkpoints(str(path)).load()["step"] == 1
    assert len(said) == 1
    assert said[0].startswith(f"cannot write {path}: ")
    assert list(tmp_path.iterdir()) == [path]


def test_when_the_next_one_is_due(tmp_path):
    assert not Checkpoints().due()
    assert not Checkpoints(str(tmp_path / "c.pt"), every_s=1000).due()
    assert Checkpoints(str(tmp_path / "c.pt")).due()
