"""The flash-attn packages (Dao-AILab/flash-attention): FlashAttention-2, -3 and -4, whichever is installed."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from methods.adapters.exact import PackedExact, lengths
from methods.adapters.optional import require
from methods.base import Capabilities, Shape

Version = Literal["2", "3", "4"]

#: Version -> the module that holds `flash_attn_func`, the package to install, and how if not by its name.
MODULES = {
    "2": ("flash_attn", "flash-attn", None),
    "3": ("flash_attn_interface", "flash_attn_3", "from the folder hopper of Dao-AILab/flash-attention"),
    "4": ("flash_attn.cute", "flash-attn-4", None),
}


class FlashAttn(PackedExact):
    """`flash_attn_func` of one version; with padding its variable-length form, so that rows of padding are 0.

    Half precision on NVIDIA GPUs: 2 from Ampere on, 3 on Hopper, 4 on Hopper and Blackwell.
    """

    capabilities = Capabilities(exact=True, dtypes=("float16", "bfloat16"), devices=("cuda",))

    def __init__(
        self,
        shape: Shape,
        *,
        version: Version = "2",
        layer: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(shape)
        if version not in MODULES:
            raise ValueError(f"version={version}: expected one of {', '.join(MODULES)}")
        self.package = require(*MODULES[version])
        self.version = version

    def whole(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `PackedExact.whole`."""
        return self._out(self.package.flash_attn_func(q, k, v, causal=self.shape.causal))

    def packed(self, q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor) -> Tensor:
        """See `PackedExact.packed`."""
        ends, longest = cu_seqlens.int(), int(lengths(cu_seqlens).max())
        return self._out(
            self.package.flash_attn_varlen_func(
                q,
                k,
                v,
                cu_seqlens_q=ends,
                cu_seqlens_k=ends,
                max_seqlen_q=longest,
                max_seqlen_k=longest,
                causal=self.shape.causal,
            )
        )

    def _out(self, result: Tensor | tuple[Tensor, ...]) -> Tensor:
        """Versions 3 and 4 also return the logsumexp."""
        self.backend = f"flash-attn-{self.version}"
        return result if isinstance(result, Tensor) else result[0]
