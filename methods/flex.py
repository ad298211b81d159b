"""FlexAttention (Dong et al. 2024, arXiv 2412.05496) as an exact method: torch.nn.attention.flex_attention.

Compiled, it is one kernel generated for the mask, which skips the blocks that no query sees. Uncompiled, it
is dense arithmetic on N x N scores. On CPUs it has no backward.
"""

from __future__ import annotations

import os
import shutil
import warnings
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from methods.base import Attention, Capabilities, Mode, Shape, Unsupported
from methods.ops.dense import allowed_pairs, dense_attention

Kernel = Literal["auto", "compiled", "eager"]

COMPILED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Flex(Attention):
    """`kernel` auto is compiled where that can be, else eager; the choice is recorded as `flex:compiled`.

    The first call compiles for seconds. A NaN or infinity in q spoils its row, in k or v rows of its head
    that attend it or share a block with it.
    """

    capabilities = Capabilities(cross=True, exact=True, forward_only=("cpu",))
    recomputes_scores = True

    def __init__(
        self,
        shape: Shape,
        *,
        kernel: Kernel = "auto",
        layer: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(shape)
        if kernel not in ("auto", "compiled", "eager"):
            raise ValueError(f"kernel={kernel}: expected one of auto, compiled, eager")
        self.kernel: Kernel = kernel

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None) -> Tensor:
        """See `Attention.forward`. Unsupported on CPUs where a gradient is asked for, or nothing can compile."""
        if q.device.type == "cpu" and torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
            raise Unsupported("FlexAttention has no backward on cpu: call it under torch.no_grad()")
        if not torch.is_grad_enabled():  # it looks at the inputs' own flag
            q, k, v = (x.detach() for x in (q, k, v))
        missing = why_not_compiled(q)
        if self.kernel == "compiled" and missing:
            raise Unsupported(f"kernel=compiled: {missing}")
        compiled = self.kernel != "eager" and not missing
        mask = self._mask(q, k, key_padding_mask)
        self.backend = "flex:compiled" if compiled else "flex:eager"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is not compiled: asked for and recorded
            attend = _compiled() if compiled else flex_attention
            out: Tensor = attend(q, k, v, block_mask=mask)
        return out

    def _mask(self, q: Tensor, k: Tensor, padding: Tensor | None) -> Any:
        """The block mask, or None where every pair attends."""
        causal = self.shape.causal
        if not causal and padding is None:
            return None

        def seen(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            real = j >= 0 if padding is None else ~padding[b, j]
            return real & (j <= i) if causal else real

        batch = None if padding is None else q.shape[0]
        return create_block_mask(seen, batch, None, q.shape[2], k.shape[2], device=q.device)

    def dense_reference(
        self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None
    ) -> Tensor:
        """Masked softmax over the N x N scores."""
        mask = allowed_pairs(q.shape[-2], self.shape.causal, key_padding_mask, q.device)
        return dense_attention(q, k, v, mask)

    def flops(self, batch_size: int, seq_len: int) -> int:
        """4 N^2 D a head, halved when causal and compiled, since blocks of the future are skipped."""
        full = 4 * batch_size * self.shape.heads * seq_len**2 * self.shape.head_dim
        return full // 2 if self.shape.causal and self.kernel != "eager" else full

    def footprint_bytes(self, batch_size: int, seq_len: int, mode: Mode, itemsize: int) -> int:
        """Eager, the N x N scores."""
        scores = batch_size * self.shape.heads * seq_len**2 * itemsize * (self.kernel == "eager")
        return scores + super().footprint_bytes(batch_size, seq_len, mode, itemsize)


@cache
def _compiled() -> Any:
    """One compiled function for all instances; lengths stay variables, so that each does not compile anew."""
    return torch.compile(flex_attention, dynamic=True, fullgraph=True)


def why_not_compiled(q: Tensor) -> str | None:
    """Why FlexAttention cannot be compiled for inputs like q, or None if it can."""
    if q.dtype not in COMPILED_DTYPES and q.device.type == "cpu":
        return f"takes float32, bfloat16, float16 on cpu, not {str(q.dtype).removeprefix('torch.')}"
    if q.device.type != "cpu":
        return None
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return "needs a CPU with AVX2"
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++", "c++")):
        return "needs a C++ compiler (g++, clang++, or the one that CXX names)"
    return None
