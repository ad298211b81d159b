"""torch's fused softmax attention with the kernel chosen up front, pinned, and named.

Left to itself, scaled_dot_product_attention falls back from one kernel to another without a word. Here the
choice is made by us and pinned, so the name returned is the kernel that ran.
"""

from __future__ import annotations

import warnings
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from methods.base import Unsupported

Kernel = Literal["auto", "flash", "efficient", "cudnn", "math"]

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}


def choose(q: Tensor, mask: Tensor | None) -> str:
    """The kernel that `auto` stands for on this device and input."""
    if q.device.type == "cpu":
        return "flash"
    if q.device.type == "cuda":
        half = q.dtype in (torch.float16, torch.bfloat16)
        return "flash" if half and mask is None else "efficient"
    return "math"


def fused_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    kernel: Kernel = "auto",
) -> tuple[Tensor, str]:
    """softmax(q k^T / sqrt(D)) v without N x N scores, and the name of the kernel that ran.

    q `[B, H, Nq, D]`, k and v `[B, H, Nk, D]`; mask bool, broadcast to `[B, H, Nq, Nk]`, True = attend.
    Raises Unsupported where the kernel cannot take the input.
    """
    name = choose(q, mask) if kernel == "auto" else kernel
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))  # what the kernels ask for
    try:
        with sdpa_kernel([BACKENDS[name]]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns once for every kernel it rules out
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    except RuntimeError as error:
        if "No available kernel" in str(error) or "No viable backend" in str(error):
            dtype = str(q.dtype).removeprefix("torch.")
            raise Unsupported(
                f"torch {torch.__version__} has no {name} attention kernel for {q.device.type} {dtype} "
                f"inputs of head_dim {q.shape[-1]}"
            ) from error
        raise
    return out, f"sdpa:{name}"
