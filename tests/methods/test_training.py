"""A small model learns a fixed batch with every method: padded and not, causal and not, reversible and not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from methods.encoder import Encoder
from methods.registry import Shape
from tests.methods.conftest import CASES, layers, method_class, trains

N, VOCAB = 24, 7


def dtype_of(name: str) -> torch.dtype:
    """float32 where the method takes it, else the best that it takes."""
    able = method_class(name).capabilities.dtypes
    return torch.float32 if "float32" in able else getattr(torch, able[0])


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens, the class of each row (its first token's parity, seen from everywhere), and where rows end."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(VOCAB, (4, N), generator=generator)
    padding = torch.arange(N) >= torch.tensor([24, 17, 9, 1])[:, None]
    return tokens, tokens[:, 0] % 2, padding


@pytest.mark.parametrize("reversible", [False, True])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("name", "causal"), CASES)
def test_training_lowers_the_loss(name, causal, padded, reversible):
    able = method_class(name).capabilities
    if not trains(name) or (padded and not able.padding):
        pytest.skip("declares no backward here, or no padding")
    tokens, targets, padding = batch()
    attention = layers(name, Shape(2, 8, N, causal), 2, dtype_of(name))
    torch.manual_seed(0)
    encoder = Encoder(attention, vocab_size=VOCAB, ff_dim=32, dropout=0.1, reversible=reversible, ff_chunks=2)
    model = nn.ModuleList([encoder, nn.Linear(16, 2)]).to(dtype_of(name)).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    real = (~padding if padded else torch.ones_like(padding)).to(dtype_of(name))[..., None]
    losses = []
    for _ in range(12):
        hidden = encoder(tokens, padding if padded else None)
        pooled = (hidden * real).sum(1) / real.sum(1)
        loss = nn.functional.cross_entropy(model[1](pooled).float(), targets)
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
        optimiser.step()
        losses.append(float(loss))
    assert losses[-1] < 0.7 * losses[0]
