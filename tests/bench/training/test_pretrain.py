"""Self-pretraining: what is asked, and that the encoder that has learned it is the one that goes on."""

import math
from dataclasses import replace

import pytest
import torch

from bench.build import facts
from bench.model import build_model, build_task
from bench.training.batches import Batches
from bench.training.distributed import Group
from bench.training.loop import train
from bench.training.pretrain import Causal, Masked, pretraining_model
from tasks.registry import IGNORE, Examples
from tests.bench.training.conftest import of_task, quiet, small

LENGTHS = torch.tensor([[50, 31], [1, 50]])


def documents(rows=2):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, 20, (rows, 2, 50), generator=generator, dtype=torch.uint8)
    lengths = LENGTHS.repeat(rows // 2, 1)
    tokens[torch.arange(50) >= lengths[..., None]] = 0
    return Examples(tokens, torch.zeros(rows, dtype=torch.int64), lengths)


def test_masked_tokens_are_predicted():
    given = documents(400)
    asked = Masked(0.15, 20, seed=0)(given, 7)
    hidden = asked.tokens == 20
    assert torch.equal(hidden, asked.targets != IGNORE)
    assert torch.equal(asked.targets[hidden], given.tokens.long()[hidden])
    assert torch.equal(asked.tokens[~hidden], given.tokens.long()[~hidden])
    assert not bool((hidden & given.padding_mask()).any())
    share = float(hidden.sum() / given.lengths.sum())
    assert share == pytest.approx(0.15, abs=0.01)
    again, other = Masked(0.15, 20, seed=0)(given, 7), Masked(0.15, 20, seed=0)(given, 8)
    assert torch.equal(again.tokens, asked.tokens)
    assert not torch.equal(other.tokens, asked.tokens)


def test_the_next_token_is_predicted():
    given = documents()
    asked = Causal()(given, 0)
    assert torch.equal(asked.tokens, given.tokens)
    for row in range(2):
        for document in range(2):
            length = int(LENGTHS[row, document])
            tokens = given.tokens[row, document].tolist()
            expected = [*tokens[1:length], *[IGNORE] * (50 - length + 1)]
            assert asked.targets[row, document].tolist() == expected


def test_processes_share_the_question():
    whole, one, two = (
        Batches(documents(8), 5, 0, group, pieces, Masked(0.3, 20, seed=0)).pieces_of(3)
        for group, pieces in ((Group(), 1), (Group(rank=0, size=2), 1), (Group(rank=1, size=2), 2))
    )
    assert whole[1] == one[1] == two[1]
    parts = [*one[0], *two[0]]
    assert [len(part.tokens) for part in parts] == [3, 1, 1]
    for field in ("tokens", "targets"):
        assert torch.equal(torch.cat([getattr(part, field) for part in parts]), getattr(whole[0][0], field))


@pytest.mark.parametrize("task", ["Ragged", "Pair"])
@pytest.mark.parametrize("pretrain", ["masked", "causal"])
def test_pretraining_learns(task, pretrain):
    cell = small(of_task(task), f"task.train.pretrain={pretrain}", "causal=true", "task.train.pretrain_steps=120")
    found = train(cell, quiet)
    assert found["pretrain_steps"] == 120
    assert found["pretrain_loss"] < 0.8 * math.log(16)
    assert found["pretrain_s"] > 0
    assert found["steps"] == 6


def test_without_pretraining_nothing_is_claimed():
    found = train(small(), quiet)
    assert (found["pretrain_steps"], found["pretrain_loss"], found["pretrain_s"]) == (0, None, None)


def test_the_encoder_is_kept_and_the_head_is_fresh():
    cell = small("task.train.pretrain=masked")
    task = build_task(cell)
    model = build_model(cell, cell.method, task)
    before = pretraining_model(cell, task, model)
    assert before.encoder is model.encoder
    assert before.head is not model.head
    assert model.encoder.embed.num_embeddings == task.vocab_size + 1
    assert before.head.classes.out_features == task.vocab_size
    plain = build_model(small(), cell.method, task)
    assert plain.encoder.embed.num_embeddings == task.vocab_size
    assert facts(cell).parameters == facts(small()).parameters + 16


def test_settings_that_are_not_used_are_no_part_of_the_identity():
    plain, set_ = small(), small("task.train.pretrain_steps=7", "task.train.pretrain_mask=0.5")
    assert plain.cell_id == set_.cell_id
    assert small("task.train.pretrain=masked").train.pretrain_steps == 6
    causal = small("causal=true", "task.train.pretrain=causal")
    assert replace(causal.train, pretrain_mask=0.5) != causal.train
    assert (
        causal.cell_id
        == small("causal=true", "task.train.pretrain=causal", "task.train.pretrain_mask=0.5").cell_id
    )
