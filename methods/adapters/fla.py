"""Linear attention of flash-linear-attention (fla-org/flash-linear-attention), in Triton."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.adapters.optional import require
from methods.base import Attention, Capabilities, Shape, Unsupported
from methods.ops.dense import causal_mask

Form = Literal["chunk", "fused_recurrent"]


class FLA(Attention):
    """Causal attention with the features elu(x) + 1 (Katharopoulos et al. 2020), normalised.

    The kernels take features, so the features and the 0 at padded keys are made here. They add 1e-10 to the
    normaliser. A NaN or infinity spoils its row, in k or v all later rows of its head.
    """

    capabilities = Capabilities(bidirectional=False, dtypes=("float32", "bfloat16", "float16"), devices=("cuda",))

    def __init__(
        self,
        shape: Shape,
        *,
        form: Form = "chunk",
        layer: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(shape)
        if form not in ("chunk", "fused_recurrent"):
            raise ValueError(f"form={form}: expected one of chunk, fused_recurrent")
        self.attend = getattr(require("fla.ops.linear_attn", "flash-linear-attention"), f"{form}_linear_attn")
        self.form = form

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None) -> Tensor:
        """See `Attention.forward`. Unsupported off CUDA, and for fewer tokens than heads."""
        if q.device.type not in self.capabilities.devices:
            raise Unsupported(f"FLA runs on {', '.join(self.capabilities.devices)}, not on {q.device.type}")
        if q.shape[2] < q.shape[1]:  # the package takes it for the other layout and raises
            raise Unsupported(f"seq_len={q.shape[2]}: flash-linear-attention expects at least heads={q.shape[1]}")
        rows = (x.transpose(1, 2).contiguous() for x in (*features(q, k, key_padding_mask), v))
        out: Tensor = self.attend(*rows, scale=1.0, normalize=True)[0]
        self.backend = f"fla:{self.form}"
        return out.transpose(1, 2)

    def dense_reference(
        self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None
    ) -> Tensor:
        """The N x N products of features of earlier keys, each row divided by its sum."""
        queries, keys = features(q, k, key_padding_mask)
        weights = (queries @ keys.transpose(-1, -2)) * causal_mask(q.shape[-2], q.device)
        return weights @ v / (weights.sum(dim=-1, keepdim=True) + 1e-10)

    def flops(self, batch_size: int, seq_len: int) -> int:
        """4 N D^2 a head for the states and their use, 4 N C D for the pairs within chunks of C = 64."""
        heads, dim = self.shape.heads, self.shape.head_dim
        within = 4 * seq_len * min(64, seq_len) * dim if self.form == "chunk" else 0
        return batch_size * heads * (4 * seq_len * dim**2 + within)


def features(q: Tensor, k: Tensor, key_padding_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """elu(x) + 1 of queries and keys; 0 for keys at padding."""
    queries, keys = F.elu(q) + 1, F.elu(k) + 1
    if key_padding_mask is not None:
        keys = keys.masked_fill(key_padding_mask[:, None, :, None], 0.0)
    return queries, keys
