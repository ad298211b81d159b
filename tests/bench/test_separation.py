"""BigBird's Proposition 1 on the task: known weights solve it with full attention, not with a sparse pattern."""

from __future__ import annotations

import torch

from methods.bigbird import BigBird
from methods.full import Full
from methods.registry import Attention, Shape
from tasks.furthest_vector import FurthestVector


def test_one_layer_of_full_attention_finds_the_furthest_vector_and_bigbird_only_what_it_sees() -> None:
    n, dim = 256, 8
    task = FurthestVector(
        seq_len=n, seed=0, vectors=1024, dim=dim, train_examples=4, dev_examples=1, test_examples=1
    )
    examples = task.examples("train")
    book = torch.from_numpy(task.book)
    x = book[examples.tokens.long()][:, None]

    def solved(method: Attention) -> torch.Tensor:
        """Q(x) = -x, K(x) = V(x) = x, at a scale that makes the softmax choose; read out the nearest vector."""
        out = method(-1e8 * x, x, x)[:, 0]
        return torch.cdist(out, book).argmin(dim=-1) == examples.targets

    shape = Shape(1, dim, n)
    assert bool(solved(Full(shape)).all())
    sparse = BigBird(shape, block=8, generator=torch.Generator().manual_seed(0))
    found, seen = solved(sparse), sparse.attended(n)[0]
    place = (examples.tokens[:, None, :] == examples.targets[:, :, None]).int().argmax(dim=-1)
    assert torch.equal(found, seen[torch.arange(n), place])
    assert 0.15 < float(found.double().mean()) < 0.45  # the pattern's density is 0.29
