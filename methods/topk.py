"""Exact top-k attention: each query keeps its k largest logits, and softmax runs over those (Gupta et al. 2021,
arXiv 2106.06899).

A diagnostic, not a saving: it finds the k keys by computing all logits, and so shows the best that any method
attending k keys a query can do by choosing them well.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from methods.base import Capabilities, Mode, PerLayer, Shape
from methods.ops.cache import CachedAttention
from methods.ops.dense import allowed_pairs, both, masked_softmax
from methods.ops.scoring import Span, spans
from methods.ops.tiles import Workspace, groups

ROWS = 128
"""Queries whose logits exist at a time."""


class TopK(CachedAttention):
    """`keys` largest logits a query, in memory linear in N. Of equal logits at the border torch.topk chooses.

    A NaN or infinity in q spoils its row, in k or v rows of its head.
    """

    capabilities = Capabilities(cross=True, decode=True, position_free=True)
    budget = "keys"

    def __init__(
        self,
        shape: Shape,
        *,
        keys: PerLayer = 64,
        layer: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(shape)
        if keys < 1:
            raise ValueError(f"keys={keys}: expected an integer >= 1")
        self.keys = keys

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None) -> Tensor:
        """See `Attention.forward`; causal masks are aligned top left where Nq != Nk."""
        return self._attend(q, k, v, key_padding_mask, self.shape.causal)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, padding: Tensor | None, causal: bool) -> Tensor:
        trained = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
        arguments = (q, k, v, padding, causal, min(self.keys, k.shape[2]), trained)
        out: Tensor = _TopK.apply(*arguments)  # type: ignore[no-untyped-call]
        return out

    def look_back(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See `CachedAttention.look_back`."""
        return self._attend(q, keys, values, None, causal=False)

    def dense_reference(
        self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None
    ) -> Tensor:
        """Softmax over the logits that are not below the k-th largest allowed one of their row."""
        allowed = allowed_pairs(q.shape[-2], self.shape.causal, key_padding_mask, q.device)
        logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        ranked = logits if allowed is None else logits.masked_fill(~allowed, float("-inf"))
        last = min(self.keys, k.shape[-2]) - 1
        border = ranked.detach().sort(dim=-1, descending=True).values[..., last : last + 1]
        return masked_softmax(logits, both(allowed, ranked.detach() >= border)) @ v

    def flops(self, batch_size: int, seq_len: int) -> int:
        """4 N^2 D a head as full attention; the causal form stops at a block's last row."""
        pairs = sum(rows.size * (rows.last if self.shape.causal else seq_len) for rows in spans(seq_len, ROWS))
        return 4 * batch_size * self.shape.heads * pairs * self.shape.head_dim

    def footprint_bytes(self, batch_size: int, seq_len: int, mode: Mode, itemsize: int) -> int:
        """The output; training also keeps which keys a query kept, and their weights."""
        kept = batch_size * self.shape.heads * seq_len * min(self.keys, seq_len) * (4 + max(itemsize, 4))
        return super().footprint_bytes(batch_size, seq_len, mode, itemsize) + kept * (mode == "train")

    def degenerate(self, seq_len: int) -> bool:
        """All keys are kept: this is full attention."""
        return self.keys >= seq_len


def _scatter(weights: Tensor, kept: Tensor, space: Workspace, columns: int) -> Tensor:
    """`[T, m, k]` at columns kept `[T, m, k]` of zeros `[T, m, columns]`."""
    return space.take("scattered", *weights.shape[:2], columns).zero_().scatter_(2, kept, weights)


class _TopK(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, padding: Tensor | None, causal: bool, keep: int, trained: bool
    ) -> Tensor:
        wide = torch.promote_types(q.dtype, torch.float32)
        space = Workspace(q.device, wide)
        heads = q.shape[0] * q.shape[1]
        queries, keys, values = (x.to(wide).flatten(0, 1) for x in (q, k, v))
        barred = None if padding is None else padding.repeat_interleave(q.shape[1], dim=0)
        n, m = keys.shape[1], queries.shape[1]
        out = torch.empty(heads, m, q.shape[3], device=q.device, dtype=wide)
        saved = (heads, m, keep) if trained else (0, 0, 0)
        all_kept = torch.empty(saved, device=q.device, dtype=torch.int32)
        all_weights = torch.empty(saved, device=q.device, dtype=wide)
        for first, last in groups(heads, min(ROWS, m) * n, q.device):
            for rows in spans(m, ROWS):
                columns = min(rows.last, n) if causal else n
                scores = space.take("scores", last - first, rows.size, columns)
                part = slice(first, last), slice(rows.first, rows.last)
                torch.bmm(queries[part], keys[first:last, :columns].transpose(1, 2), out=scores)
                if causal:
                    scores.masked_fill_(_future(rows, columns, q.device), -torch.inf)
                if barred is not None:
                    scores.masked_fill_(barred[first:last, None, :columns], -torch.inf)
                best, kept = scores.topk(min(keep, columns), dim=2, sorted=False)
                weights = best.mul(q.shape[3] ** -0.5).softmax(dim=2).masked_fill_(best.isneginf(), 0.0)
                out[part] = torch.bmm(_scatter(weights, kept, space, columns), values[first:last, :columns])
                if trained:
                    all_kept[(*part, slice(kept.shape[2]))] = kept.int()
                    all_weights[(*part, slice(kept.shape[2]))] = weights
        ctx.causal = causal
        ctx.save_for_backward(q, k, v, all_kept, all_weights)
        return out.view_as(q).to(q.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, all_kept, all_weights = ctx.saved_tensors
        space = Workspace(q.device, all_weights.dtype)
        queries, keys, values, grads = (x.to(space.dtype).flatten(0, 1) for x in (q, k, v, grad))
        dq, dk, dv = torch.empty_like(queries), torch.zeros_like(keys), torch.zeros_like(values)
        (heads, m, keep), n = all_kept.shape, keys.shape[1]
        for first, last in groups(heads, min(ROWS, m) * n, q.device):
            for rows in spans(m, ROWS):
                columns = min(rows.last, n) if ctx.causal else n
                part = slice(first, last), slice(rows.first, rows.last)
                own = (*part, slice(min(keep, columns)))
                kept, weights, seen = all_kept[own].long(), all_weights[own], (slice(first, last), slice(columns))
                dense = _scatter(weights, kept, space, columns)
                dv[seen] += torch.bmm(dense.transpose(1, 2), grads[part])
                slopes = space.take("slopes", *dense.shape)
                torch.bmm(grads[part], values[seen].transpose(1, 2), out=slopes)
                slopes = slopes.gather(2, kept)
                slopes = weights * (slopes - (weights * slopes).sum(dim=2, keepdim=True)) * q.shape[3] ** -0.5
                dense = _scatter(slopes, kept, space, columns)
                dq[part] = torch.bmm(dense, keys[seen])
                dk[seen] += torch.bmm(dense.transpose(1, 2), queries[part])
        return *(d.view(x.shape).to(x.dtype) for d, x in ((dq, q), (dk, k), (dv, v))), None, None, None, None


def _future(rows: Span, columns: int, device: torch.device) -> Tensor:
    """bool `[rows, columns]`, True at keys after their query."""
    return torch.arange(columns, device=device) > rows.positions(device)[:, None]
