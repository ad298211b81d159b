"""What the loop costs over the shortest one that trains the same model on the same data.

    ATTNBENCH_TIMING=1 python -m pytest tests/bench/training/test_throughput.py -s

Only when asked for: it wants a quiet machine and takes a minute.
"""

import os
import statistics
import time

import pytest
import torch

from bench.model import build_model, build_task
from bench.training.batches import Batches
from bench.training.distributed import Group
from bench.training.learner import Learner, seed_step
from bench.training.precision import Precision
from tests.bench.conftest import make_cell

BLOCK, ROUNDS = 15, 12


@pytest.mark.skipif("ATTNBENCH_TIMING" not in os.environ, reason="wants a quiet machine: ATTNBENCH_TIMING=1")
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "settings", [["seq_len=128"], ["seq_len=512"], ["seq_len=128", "task.train.batch_size=8"]]
)
def test_training_is_within_ten_percent_of_a_bare_loop(settings):
    cell = make_cell("task=copying", "task.train.batch_size=32", *settings)
    task = build_task(cell)
    examples = task.examples("train")
    size, rate = cell.batch_size, cell.train.lr

    model = build_model(cell, cell.method, task)
    learner = Learner(model, cell.train, 10**6, Precision("cpu", "float32"), Group())
    batches = Batches(examples, size, 0, Group())

    bare = build_model(cell, cell.method, task)
    optimiser = torch.optim.AdamW(bare.parameters(), lr=rate)
    order = torch.randperm(len(examples))

    def ours(first):
        kept = []
        for step in range(first, first + BLOCK):
            seed_step(0, step, Group())
            kept.append(learner.step(batches, step))

    def shortest(first):
        for step in range(first, first + BLOCK):
            start = step * size % (len(examples) - size)
            rows = order[start : start + size]
            logits = bare(examples.tokens[rows])
            targets = examples.targets[rows].long()
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(bare.parameters(), 1.0)
            optimiser.step()

    def seconds(run, first):
        started = time.perf_counter()
        run(first)
        return time.perf_counter() - started

    ratios = []
    for turn in range(ROUNDS + 1):
        pair = (ours, shortest) if turn % 2 else (shortest, ours)
        taken = {run: seconds(run, turn * BLOCK) for run in pair}
        ratios.append(taken[ours] / taken[shortest])
    ratio = statistics.median(ratios[1:])
    print(
        f"\n{' '.join(settings)}: {ratio:.3f} of a bare loop's time, rounds {min(ratios):.2f} to {max(ratios):.2f}"
    )
    assert ratio < 1.1
