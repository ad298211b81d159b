"""Grouped queries over the registry: what a group shares, by its definition, and torch's own form of it."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from methods.registry import METHODS, Shape, grouped, queries_as_tokens
from tests.methods.conftest import build, draw, method_class, trains

HEADS, GROUPS, DIM = 6, 2, 5
DECODERS = [name for name in METHODS if method_class(name).capabilities.decode]


def inputs(shape: Shape, batch: int = 2) -> list[torch.Tensor]:
    """q with HEADS heads, k and v with the shape's."""
    q = draw(batch, Shape(HEADS, shape.head_dim, shape.seq_len), dtype=torch.float32)[0]
    _, k, v = draw(batch, shape, dtype=torch.float32)
    return [q, k, v]


@pytest.mark.parametrize("batch", [1, 2])
def test_each_query_head_of_a_group_sees_the_group_s_keys(case: tuple[str, bool], batch: int) -> None:
    """Values and gradients, against one plain call a query head."""
    name, causal = case
    if method_class(name).capabilities.shared_qk:
        pytest.skip(f"{name} makes each head's keys from its queries")
    shape = Shape(heads=GROUPS, head_dim=DIM, seq_len=32, causal=causal)
    method = build(name, shape, torch.float32)
    leaves = [x.requires_grad_(trains(name)) for x in inputs(shape, batch)]
    q, k, v = leaves
    found = grouped(method, q, k, v)
    share = HEADS // GROUPS
    # head g * share + r belongs to group g: every share-th head makes one call
    calls = [method(q[:, r::share], k, v) for r in range(share)]
    wanted = torch.stack(calls, dim=2).flatten(1, 2)
    assert torch.allclose(found, wanted, atol=1e-5)
    if not trains(name):
        return
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(3))
    for got, want in zip(
        torch.autograd.grad(found, leaves, weights), torch.autograd.grad(wanted, leaves, weights), strict=True
    ):
        assert torch.allclose(got, want, atol=1e-4)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_exact_attention_is_torch_s_grouped_form(groups: int, causal: bool) -> None:
    shape = Shape(heads=groups, head_dim=DIM, seq_len=20, causal=causal)
    q, k, v = inputs(shape)
    wanted = scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)
    assert torch.allclose(grouped(build("sdpa", shape, torch.float32), q, k, v), wanted, atol=1e-5)


def test_one_sequence_is_not_copied() -> None:
    """A batch of one sees its keys again and again where they lie."""
    seen = []

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        seen.extend((q, k, v))
        return q

    leaves = inputs(Shape(GROUPS, DIM, 8), batch=1)
    grouped(attention, *leaves)
    assert [x.data_ptr() for x in seen] == [x.data_ptr() for x in leaves]


@pytest.mark.parametrize("name", DECODERS)
def test_a_step_gives_the_rows_of_the_causal_form(name: str) -> None:
    shape = Shape(heads=GROUPS, head_dim=DIM, seq_len=24, causal=True)
    method = build(name, shape, torch.float32)
    q, k, v = inputs(shape)
    wanted = grouped(method, q, k, v)
    state = method.start(2, q.device, q.dtype)
    for i in range(24):
        now = slice(i, i + 1)
        out, state = method.step(queries_as_tokens(q[:, :, now], GROUPS), k[:, :, now], v[:, :, now], state)
        assert torch.allclose(out.flatten(1, 2), wanted[:, :, i], atol=1e-5)
