"""The only module that calls private operators of torch, each with a public fallback that is named.

torch's CPU FlashAttention returns the logsumexp that its public front end drops; partial results need it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_FLASH = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)


def kernel_name(device: torch.device) -> str:
    """What `softmax_attention` runs on this device: `cpu-flash`, or `eager` where there is no such kernel."""
    return "cpu-flash" if _FLASH is not None and device.type == "cpu" else "eager"


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """softmax(scale q k^T + bias) v and its logsumexp, without gradient.

    q `[T, m, D]`, k and v `[T, n, D]`, bias broadcast to `[T, m, n]` (-inf: not allowed) -> out `[T, m, D]`
    and lse `[T, m]` (float32, or float64 for float64); rows with nothing allowed: out 0, lse -inf.
    """
    if kernel_name(q.device) == "eager":
        return _eager(q, k, v, bias, scale)
    assert _FLASH is not None
    mask = None if bias is None else bias.expand(*(bias.shape if bias.dim() == 3 else (1, *bias.shape)))[None]
    if mask is not None and mask.dtype != q.dtype:
        mask = mask.to(q.dtype)
    out, lse = _FLASH(q[None], k[None], v[None], 0.0, False, attn_mask=mask, scale=scale)
    out, lse = out[0], lse[0]
    if bias is not None:  # the kernel gives rows without a key lse 0
        lse = lse.masked_fill((bias.amax(dim=-1) == -math.inf).expand_as(lse), -math.inf)
    return out, lse


def _eager(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = torch.bmm(q.to(wide), k.to(wide).transpose(1, 2)).mul_(scale)
    if bias is not None:
        scores += bias
    lse = scores.logsumexp(dim=-1)
    scores.sub_(lse.masked_fill(lse.isneginf(), 0.0)[..., None]).exp_()
    return torch.bmm(scores, v.to(wide)).to(q.dtype), lse
