"""Windowed attention by other ways than tiles: one masked call, diagonal by diagonal, torch's FlexAttention."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.base import Unsupported
from methods.ops.bands import Heads, Pattern, pairs
from methods.ops.dense import masked_softmax
from methods.ops.fused import fused_attention
from methods.ops.windows import windowed_attention

GlobalQKV = tuple[Tensor, Tensor, Tensor]
Backend = Literal["auto", "tiles", "masked", "diagonals", "flex", "dense"]
BACKENDS: tuple[str, ...] = get_args(Backend)

SHORT = 512
"""Longest input for which a mask of N x N is small beside q, k and v."""


def mostly_dense(n: int, heads: Sequence[Heads]) -> bool:
    """Whether one fused call over all pairs of a short input costs less than tiles over those of its bands."""
    if n > SHORT:
        return False
    inside = sum((own.last - own.first) * pairs(n, own.band) for own in heads)
    return 2 * n * n * heads[-1].last <= 3 * inside


def choose(
    backend: Backend, q: Tensor, k: Tensor, v: Tensor, heads: Sequence[Heads], sink: Tensor | None = None
) -> Backend:
    """What `auto` stands for: FlexAttention on CUDA where it can run, `masked` where bands are most of a short
    input, tiles otherwise. Tiles alone have learned sinks.
    """
    if backend != "auto":
        return backend
    if sink is not None:
        return "tiles"
    if q.device.type == "cuda" and flex_refusal(q, k, v) is None:
        return "flex"
    return "masked" if q.device.type == "cpu" and mostly_dense(q.shape[2], heads) else "tiles"


def run(
    backend: Backend,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern,
    *,
    sink: Tensor | None = None,
    global_qkv: GlobalQKV | None = None,
) -> Tensor:
    """`windowed_attention` by any backend but `auto` and `dense`. Raises Unsupported where it cannot."""
    own = global_qkv if pattern.rows else None
    if backend == "tiles":
        return windowed_attention(q, k, v, pattern, sink=sink, global_qkv=own)
    if sink is not None:
        raise Unsupported(f"backend={backend}: has no learned sink; expected auto, tiles or dense")
    return {"masked": masked, "diagonals": diagonals, "flex": flex}[backend](q, k, v, pattern, own)


def masked(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, global_qkv: GlobalQKV | None) -> Tensor:
    """torch's fused kernel under a boolean mask of N x N: the fastest for inputs hardly longer than the window."""
    position = torch.arange(q.shape[2], device=q.device)
    batch, head = (torch.arange(x, device=q.device) for x in q.shape[:2])
    allowed = _mask(pattern, q.shape[2], q.device, rows=global_qkv is None)(
        batch[:, None, None, None], head[:, None, None], position[:, None], position
    )
    out, _ = fused_attention(q, k, v, mask=allowed)
    return out if global_qkv is None else _with_whole_rows(out, q, k, v, pattern, global_qkv)


def diagonals(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, global_qkv: GlobalQKV | None) -> Tensor:
    """One diagonal of the scores after the other, in plain autograd: N (w + 1) scores, no wasted product.

    As the `loop` implementation of the paper's appendix A; slow, and easy to read.
    """
    n, scaled = q.shape[2], q * q.shape[-1] ** -0.5
    parts = []
    for heads in pattern.heads:
        own, keys, values = (x[:, heads.first : heads.last] for x in (scaled, k, v))
        reach = range(-min(heads.band.left, n - 1), min(heads.band.right, n - 1) + 1)
        shifts = [t * heads.band.dilation for t in reach if abs(t) * heads.band.dilation < n]
        logits = [_shifted(keys, t).mul(own).sum(dim=-1) for t in shifts]
        real = torch.ones(1, 1, n, 1, dtype=torch.bool, device=q.device)
        if pattern.padding is not None:
            real = ~pattern.padding[:, None, :, None]
        allowed = [_shifted(real, t)[..., 0].expand_as(logits[0]) for t in shifts]
        if pattern.shared is not None:
            index = pattern.shared[:, None, :, None]
            shared, shared_values = (x.take_along_dim(index, dim=2) for x in (keys, values))
            seen = ~pattern.hidden(heads.band, n)[:, None].transpose(2, 3)
            logits += (own @ shared.transpose(2, 3)).unbind(dim=-1)
            allowed += seen.expand(*own.shape[:3], -1).unbind(dim=-1)
        weights = masked_softmax(torch.stack(logits, dim=-1), torch.stack(allowed, dim=-1))
        out = torch.zeros_like(own)
        for slot, t in enumerate(shifts):
            out = out + weights[..., slot, None] * _shifted(values, t)
        if pattern.shared is not None:
            out = out + weights[..., len(shifts) :] @ shared_values
        parts.append(out)
    return _with_whole_rows(torch.cat(parts, dim=1), q, k, v, pattern, global_qkv)


def _shifted(x: Tensor, t: int) -> Tensor:
    """Row i of the result is row i + t of `[B, H, N, C]`, zero where there is none."""
    n = x.shape[2]
    return F.pad(x[:, :, max(0, t) : n + min(0, t)], (0, 0, max(0, -t), max(0, t)))


def _with_whole_rows(
    out: Tensor, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, global_qkv: GlobalQKV | None
) -> Tensor:
    """`out` with the rows of shared positions that attend every key put in; differentiable."""
    if not pattern.rows:
        return out
    own = global_qkv or (q.take_along_dim(pattern.index[:, None, :, None], dim=2), k, v)
    unseen = pattern.unseen(k.shape[2])
    logits = (own[0] * q.shape[-1] ** -0.5) @ own[1].transpose(2, 3)
    weights = masked_softmax(logits, None if unseen is None else ~unseen[:, None])
    rows = weights @ own[2]
    row, slot, position = pattern.places(q.shape[0])
    whole = out.clone()
    whole[row, :, position] = rows[row, :, slot]
    return whole


def flex_refusal(q: Tensor, *others: Tensor) -> str | None:
    """Why FlexAttention cannot run on these inputs; None if it can. Where it compiles it needs triton's sizes."""
    if q.device.type == "cpu":
        grads = torch.is_grad_enabled() and any(x.requires_grad for x in (q, *others))
        return "FlexAttention has no backward on cpu" if grads else None
    if q.device.type != "cuda":
        return f"FlexAttention does not run on {q.device.type}"
    if q.dtype == torch.float64:
        return "FlexAttention takes no float64 on cuda"
    dim = q.shape[-1]
    return None if dim >= 16 and dim & (dim - 1) == 0 else f"FlexAttention takes no head_dim {dim}"


def flex(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, global_qkv: GlobalQKV | None) -> Tensor:
    """torch's FlexAttention under a block mask; compiled on CUDA, plain on CPU. Raises Unsupported."""
    why = flex_refusal(q, k, v)
    if why is not None:
        raise Unsupported(f"backend=flex: {why}; expected auto, tiles, masked, diagonals or dense")
    from torch.nn.attention.flex_attention import create_block_mask

    if not torch.is_grad_enabled():  # it looks at the inputs' own flag
        q, k, v = (x.detach() for x in (q, k, v))
    batch, heads, n, _ = q.shape
    variable = any(x is not None and x.shape[0] > 1 for x in (pattern.padding, pattern.shared, pattern.used))
    mask = create_block_mask(
        _mask(pattern, n, q.device, rows=global_qkv is None),
        batch if variable else None,
        heads if len(pattern.heads) > 1 else None,
        n,
        n,
        device=q.device,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is not compiled on CPU is meant
        out: Tensor = _flex_attention(q.device.type)(q, k, v, block_mask=mask)
    return out if global_qkv is None else _with_whole_rows(out, q, k, v, pattern, global_qkv)


@lru_cache
def _flex_attention(device: str) -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    attention: Callable[..., Any] = flex_attention
    return torch.compile(attention, dynamic=False) if device == "cuda" else attention


def _mask(
    pattern: Pattern, n: int, device: torch.device, *, rows: bool
) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The pattern as a function of (batch, head, query, key), indices to bool; `rows`: with its whole rows."""
    shared = torch.zeros(1, n, dtype=torch.bool, device=device)
    if pattern.shared is not None:
        used = torch.ones_like(pattern.shared, dtype=torch.bool) if pattern.used is None else pattern.used
        counts = torch.zeros(pattern.shared.shape[0], n, dtype=torch.int32, device=device)
        shared = counts.scatter_add_(1, pattern.shared, used.int()) > 0
    one, bands, rows = shared.shape[0] == 1, pattern.heads, rows and pattern.rows

    def mask(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        seen = bands[0].band.holds(j - i)
        for other in bands[1:]:
            seen = torch.where(h >= other.first, other.band.holds(j - i), seen)
        row = torch.zeros_like(b) if one else b
        seen = seen | shared[row, j]
        if rows:
            seen = seen | shared[row, i]
        if pattern.causal:
            seen = seen & (j <= i)
        return seen if pattern.padding is None else seen & ~pattern.padding[b, j]

    return mask
