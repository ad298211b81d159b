"""Small tasks and short runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from bench.cell import Cell
from tasks.copying import Copying
from tasks.registry import IGNORE
from tests.bench.conftest import make_cell

#: Sixteen tokens, four of them to copy; a model of width 16.
SMALL = [
    "task=copying",
    "seq_len=16",
    "heads=2",
    "head_dim=8",
    "model.ff_dim=16",
    "hardware.threads=1",
    "measure.passes=[train]",
    "task.params.tokens=4",
    "task.params.train_examples=64",
    "task.params.dev_examples=19",
    "task.params.test_examples=16",
    "task.train.batch_size=9",
    "task.train.steps=6",
    "task.train.eval_every=2",
    "task.train.warmup_steps=2",
]

#: What a run measures and does not compute: it differs between two runs of the same bits.
TIMES = (
    *("train_s", "step_ms", "train_tokens_per_s", "pretrain_s", "resumed", "elapsed_s"),
    *("cpu_share", "wait_share"),  # of the cores, while it ran
)


class Ragged(Copying):
    """Copying with rows of different lengths and numbers of targets, the last row of a split without any."""

    def examples(self, split):
        found = super().examples(split)
        row = torch.arange(len(found))[:, None]
        lengths = self.seq_len - row[:, 0] % (self.tokens + 1)
        kept = (torch.arange(self.seq_len) < lengths[:, None]) & (row < len(found) - 1)
        tokens = found.tokens.masked_fill(torch.arange(self.seq_len) >= lengths[:, None], 0)
        return replace(found, tokens=tokens, targets=found.targets.masked_fill(~kept, IGNORE), lengths=lengths)


class Pair(Ragged):
    """Two padded documents a row: does the first token of both agree in parity?"""

    per_token = False
    documents = 2

    @property
    def num_classes(self):
        return 2

    def examples(self, split):
        found = super().examples(split)
        n = len(found) // 2
        tokens = found.tokens[: 2 * n].reshape(n, 2, -1).to(torch.uint8)
        return replace(
            found,
            tokens=tokens,
            targets=(tokens[:, 0, 0] % 2 == tokens[:, 1, 0] % 2).to(torch.uint8),
            lengths=found.lengths[: 2 * n].reshape(n, 2),
        )


def small(*overrides: str) -> Cell:
    return make_cell(*SMALL, *overrides)


def of_task(name: str) -> str:
    return f"task._target_={__name__}.{name}"


def quiet(step: int, steps: int, note: str) -> None:
    pass


def computed(found: dict) -> dict:
    """A result without its times."""
    kept = {key: value for key, value in found.items() if key not in TIMES}
    curve = [{key: value for key, value in point.items() if key not in TIMES} for point in found["curve"]]
    return {**kept, "curve": curve}


def losses(found: dict) -> list[float]:
    return [value for point in found["curve"] for value in (point["train_loss"], point["dev_loss"])]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
