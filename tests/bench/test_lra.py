"""sweep=lra against the settings of google-research/long-range-arena, one model and one training a task."""

import pytest

from bench.cli import compose
from bench.schema import register

#: task: (seq_len, batch, steps, schedule, lr, warm-up, weight decay, clipped norm, evaluation every, model).
PUBLISHED = {
    "listops": (2000, 32, 5000, "rsqrt", 0.05, 1000, 0.1, 0, 50, "lra_listops"),
    "text": (4000, 32, 20000, "rsqrt", 0.05, 8000, 0.1, 0, 100, "lra_text"),
    "retrieval": (4000, 32, 5000, "rsqrt", 0.05, 8000, 0.1, 0, 100, "lra_retrieval"),
    "image": (1024, 256, 35000, "cosine", 5e-4, 175, 0, 0, 175, "lra_image"),
    "pathfinder": (1024, 512, 62400, "cosine", 1e-3, 312, 0, 0, 312, "lra_pathfinder"),
    "pathx": (16384, 64, 500000, "cosine", 1e-3, 2500, 0, 1, 2500, "lra_pathx"),
}


@pytest.fixture(autouse=True)
def _schema() -> None:
    register()


def test_training_is_as_published():
    _, plan, _, _ = compose(["sweep=lra", "method=sdpa", "seed=0"])
    cells = {item.cell.task.name: item.cell for item in plan}
    assert cells.keys() == PUBLISHED.keys()
    for name, cell in cells.items():
        how = cell.train
        found = (cell.seq_len, cell.batch_size, how.steps, how.schedule, how.lr, how.warmup_steps)
        assert (*found, how.weight_decay, how.grad_clip, how.eval_every, cell.model.name) == PUBLISHED[name]
        assert (how.betas, how.eps) == ((0.9, 0.98), 1e-9)
        assert not how.stratify
    assert not cells["retrieval"].task.params["interaction"]


def test_a_sweep_brings_its_limit_and_the_user_s_goes_first():
    one = ["sweep=lra", "method=sdpa", "seed=0", "task=image"]
    assert compose(one)[2].timeout_s == 86400
    assert compose([*one, "timeout_s=5"])[2].timeout_s == 5
    assert compose(["method=sdpa"])[2].timeout_s is None
