"""The training loop: learns what can be learned, repeats itself, tests the best dev step once."""

import pytest
import torch

from bench.train import Diverged, batches, evaluate, learning_rate, train
from tasks.registry import Examples
from tests.bench.conftest import make_cell

SHORT = ["task=copying", "task.train.steps=30", "task.train.eval_every=10"]


def silent(step: int, steps: int, note: str) -> None:
    pass


def test_same_seed_same_numbers_and_another_seed_others():
    torch.set_num_threads(1)
    one, again, other = (train(make_cell(*SHORT, f"seed={seed}"), silent) for seed in (0, 0, 1))
    for key in ("accuracy", "dev_accuracy", "train_loss", "best_step"):
        assert one[key] == again[key]
    curve = [[point["train_loss"] for point in run["curve"]] for run in (one, again, other)]
    assert curve[0] == curve[1] != curve[2]


def test_the_task_is_learned():
    found = train(make_cell("task=copying", "method=sdpa"), silent)
    assert found["accuracy"] > 3 * found["chance"]
    assert found["curve"][-1]["train_loss"] < found["curve"][0]["train_loss"]


def test_the_best_dev_step_is_the_one_that_is_tested():
    found = train(make_cell(*SHORT), silent)
    best = max(found["curve"], key=lambda point: point["dev_accuracy"])
    assert (found["best_step"], found["dev_accuracy"]) == (best["step"], best["dev_accuracy"])


def test_divergence_is_noticed():
    cell = make_cell("task=copying", "task.train.steps=60", "task.train.lr=1e30", "task.train.grad_clip=0")
    with pytest.raises(Diverged, match=r"task.train.lr=1e\+30"):
        train(cell, silent)


def test_schedule():
    settings = make_cell("task=copying", "task.train.steps=100", "task.train.warmup_steps=10").train
    rates = [learning_rate(step, settings) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.001


def test_an_epoch_sees_every_example_once():
    rows = Examples(torch.arange(12)[:, None], torch.arange(12), torch.ones(12, dtype=torch.int64))
    stream = batches(rows, 4, seed=0)
    epochs = [torch.cat([next(stream).targets for _ in range(3)]) for _ in range(2)]
    assert [sorted(epoch.tolist()) for epoch in epochs] == [list(range(12))] * 2
    assert epochs[0].tolist() != epochs[1].tolist()


def test_evaluation_counts_every_target():
    model = torch.nn.Module()
    model.forward = lambda tokens, padding, global_mask: torch.nn.functional.one_hot(tokens[:, 0] % 3, 3).float()
    tokens = torch.arange(600)[:, None]
    found = evaluate(model, Examples(tokens, tokens[:, 0] % 3, torch.ones(600, dtype=torch.int64)), "cpu")
    assert (found["accuracy"], found["count"]) == (1.0, 600)
