"""Linear attention (Katharopoulos et al. 2020, arXiv 2006.16236): phi(x) = elu(x) + 1 in place of softmax.

Row i is phi(q_i) (sum_j phi(k_j) v_j^T) / phi(q_i) (sum_j phi(k_j)) (equations 4 to 7), over j <= i in the causal
form (equations 9 to 12), which is a recurrence with a state of D (D + 1) numbers a head (equations 16 to 20).
As in the paper q and k are not scaled: the kernel is not one of q . k, so 1/sqrt(D) has no place in it. It is a
model of its own and approximates nothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.base import Attention, Capabilities, Shape, Unsupported
from methods.ops.dense import allowed_keys, causal_mask
from methods.ops.features import Elu
from methods.ops.kernelised import kernelised_attention
from methods.ops.kernelised_causal import (
    CHUNK,
    State,
    absorb,
    attend_next,
    causal_kernelised_attention,
    empty_state,
)


class Linear(Attention):
    """Features are positive and no wider than a head: nothing to choose, and cost linear in N at any length.

    NaN or infinity in a query stays in its row, in a key or value it reaches its head (causal: from its chunk on).
    """

    capabilities = Capabilities(decode=True, position_free=True)

    def __init__(
        self,
        shape: Shape,
        *,
        layer: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(shape)
        self.map = Elu(shape.head_dim, None, 1.0)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None) -> Tensor:
        """See `Attention.forward`. Half precision is computed in float32 inside."""
        attend = causal_kernelised_attention if self.shape.causal else kernelised_attention
        return attend(q, k, v, self.map, self.map, key_padding_mask)

    def dense_reference(
        self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None
    ) -> Tensor:
        """Equation 5 with its N x N weights."""
        weights = (F.elu(q) + 1) @ (F.elu(k) + 1).transpose(-1, -2)
        if self.shape.causal:
            weights = weights * causal_mask(q.shape[-2], q.device)
        allowed = allowed_keys(key_padding_mask)
        if allowed is not None:
            weights = weights * allowed
        mass = weights.sum(dim=-1, keepdim=True)
        return weights @ v / torch.where(mass == 0, torch.ones_like(mass), mass)

    def flops(self, batch_size: int, seq_len: int) -> int:
        """4 N D (D + 1) a head for sums and rows; causal adds its chunks' pairs."""
        return batch_size * self.shape.heads * sum(self._head_flops(seq_len))

    def train_flops(self, batch_size: int, seq_len: int) -> int:
        """3 times the forward; causal, since the backward goes over the chunks twice, 3.5 times the sums and
        4 times the pairs.
        """
        if not self.shape.causal:
            return 3 * self.flops(batch_size, seq_len)
        sums, pairs = self._head_flops(seq_len)
        return batch_size * self.shape.heads * (sums * 7 // 2 + 4 * pairs)

    def _head_flops(self, seq_len: int) -> tuple[int, int]:
        """Of one head's forward: sums and rows, and the pairs within chunks."""
        dim = self.shape.head_dim
        sizes = [min(CHUNK, seq_len - start) for start in range(0, seq_len, CHUNK)] if self.shape.causal else []
        return 4 * seq_len * dim * (dim + 1), sum(2 * size**2 * (2 * dim + 1) for size in sizes)

    def start(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        """No token yet."""
        if not self.shape.causal:
            raise Unsupported("Linear decodes in its causal form only (causal=true)")
        return empty_state(batch_size, self.shape.heads, self.shape.head_dim, self.shape.head_dim, device, dtype)

    def step(self, q: Tensor, k: Tensor, v: Tensor, state: State) -> tuple[Tensor, State]:
        """See `Attention.step`; O(D^2)."""
        return attend_next(q, k, v, state, self.map, self.map)

    def prefill(self, k: Tensor, v: Tensor, state: State) -> State:
        """See `Attention.prefill`; O(n D^2)."""
        return absorb(k, v, state, self.map)

    def state_size(self, seq_len: int) -> int:
        """D (D + 1) numbers a head, whatever the length."""
        return self.shape.heads * self.shape.head_dim * (self.shape.head_dim + 1)
