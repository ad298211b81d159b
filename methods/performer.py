"""Performer (Choromanski et al. 2021, arXiv 2009.14794): softmax attention by positive random features, FAVOR+.

A_ij is estimated by phi(q_i) . phi(k_j) with phi(x) = exp(W x - |x|^2 / 2 - c) + eps, x scaled by D^(-1/4), and
rows normalised, so that attention becomes phi(Q) (phi(K)^T V) in time linear in N (sections 2.2 to 2.4).

Stabilisers c: a row's own maximum for queries; for keys the maximum over features and real keys of one head
of one batch row. In the causal form the key maximum runs along the sequence, and sums are rescaled as it
grows: a maximum over all keys would let the future in through eps. Padded keys have features 0 (not phi(0)).
Constants are treated as constants by the gradient.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.base import Attention, Capabilities, PerLayer, Shape
from methods.ops.features import gaussian_projection, log_positive_features, orthogonal_projection

CHUNK = 256
"""Tokens at a time, so that features stay in cache and memory does not hold all N x m of them."""

LOW = -1e30
"""Below any log-feature, yet finite: differences of it are 0, not NaN."""


class Performer(Attention):
    """`features` random features a head, `orthogonal` by default; drawn once, shared by the heads of a layer."""

    capabilities = Capabilities(deterministic=False)
    budget = "features"

    def __init__(
        self,
        shape: Shape,
        *,
        features: PerLayer = 256,
        orthogonal: bool = True,
        eps: float = 1e-6,
        layer: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(shape)
        if features < 1:
            raise ValueError(f"features={features}: expected an integer >= 1")
        if eps < 0:
            raise ValueError(f"eps={eps}: expected a number >= 0")
        self.features = features
        self.eps = eps
        generator = generator if generator is not None else torch.Generator().manual_seed(layer)
        draw = orthogonal_projection if orthogonal else gaussian_projection
        self.projection: Tensor
        self.register_buffer("projection", draw(features, shape.head_dim, generator))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None) -> Tensor:
        """See `Attention.forward`. Half precision is computed in float32 inside."""
        wide = torch.promote_types(q.dtype, torch.float32)
        values = F.pad(v.to(wide), (0, 1), value=1.0)  # a column of ones carries the normaliser
        attend = self._causal if self.shape.causal else self._bidirectional
        parts = attend(q.to(wide), k.to(wide), values, key_padding_mask)
        return _normalised(parts).to(q.dtype)

    def _bidirectional(self, q: Tensor, k: Tensor, values: Tensor, padding: Tensor | None) -> Tensor:
        """Unnormalised rows `[B, H, N, D + 1]`: one pass over the keys, one over the queries."""
        batch, heads, n, width = values.shape
        top = q.new_full((batch, heads, 1, 1), LOW)
        state = q.new_zeros(batch, heads, self.features, width)
        plain = q.new_zeros(batch, heads, 1, width)
        for part in _chunks(n):
            log_k = self._log_keys(k[:, :, part], padding, part)
            value = values[:, :, part]
            if padding is not None:
                value = value.masked_fill(padding[:, None, part, None], 0.0)
            raised = torch.maximum(top, log_k.detach().amax(dim=(-2, -1), keepdim=True))
            state = state * (top - raised).exp() + (log_k - raised).exp().transpose(-1, -2) @ value
            plain = plain + value.sum(dim=-2, keepdim=True)
            top = raised
        state = state + self.eps * plain
        return torch.cat([self._queries(q[:, :, part]) @ state for part in _chunks(n)], dim=2)

    def _causal(self, q: Tensor, k: Tensor, values: Tensor, padding: Tensor | None) -> Tensor:
        """Unnormalised rows, chunk by chunk: pairs inside the chunk, and a state for all that came before."""
        batch, heads, n, width = values.shape
        top = q.new_full((batch, heads, 1), LOW)  # running maximum up to the last chunk
        state = q.new_zeros(batch, heads, self.features, width)
        rows = []
        for part in _chunks(n):
            phi_q = self._queries(q[:, :, part])
            log_k = self._log_keys(k[:, :, part], padding, part)
            running = torch.cat([top, log_k.detach().amax(dim=-1)], dim=-1).cummax(dim=-1).values[..., 1:]
            phi_k = self._floored(log_k - running[..., None], padding, part)
            inside = (phi_q @ phi_k.transpose(-1, -2)) * _decay(running, running).tril()
            before = (phi_q @ state) * (top - running).exp()[..., None]
            rows.append(inside @ values[:, :, part] + before)
            last = running[..., -1:]
            state = state * (top - last).exp()[..., None]
            state = state + (phi_k * (running - last).exp()[..., None]).transpose(-1, -2) @ values[:, :, part]
            top = last
        return torch.cat(rows, dim=2)

    def _queries(self, q: Tensor) -> Tensor:
        """phi(q) `[B, H, n, m]`, each row scaled by its own maximum."""
        log_q = log_positive_features(q * self.shape.head_dim**-0.25, self.projection.to(q.dtype))
        return (log_q - log_q.detach().amax(dim=-1, keepdim=True)).exp() + self.eps

    def _log_keys(self, k: Tensor, padding: Tensor | None, part: slice) -> Tensor:
        """log phi(k) `[B, H, n, m]` before stabiliser and eps; -inf at padding."""
        log_k = log_positive_features(k * self.shape.head_dim**-0.25, self.projection.to(k.dtype))
        return log_k if padding is None else log_k.masked_fill(padding[:, None, part, None], float("-inf"))

    def _floored(self, log_phi: Tensor, padding: Tensor | None, part: slice) -> Tensor:
        """exp(log_phi) + eps, and 0 at padding."""
        phi = log_phi.exp() + self.eps
        return phi if padding is None else phi.masked_fill(padding[:, None, part, None], 0.0)

    def dense_reference(
        self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None
    ) -> Tensor:
        """The estimated N x N matrix phi(Q) phi(K)^T, masked, row-normalised, times V."""
        everything = slice(None)
        log_k = self._log_keys(k, key_padding_mask, everything)
        peak = log_k.detach().amax(dim=-1)
        low = max(LOW, torch.finfo(peak.dtype).min)
        if self.shape.causal:
            top = peak.cummax(dim=-1).values.clamp_min(low)
        else:
            top = peak.amax(dim=-1, keepdim=True).clamp_min(low).expand_as(peak)
        phi_k = self._floored(log_k - top[..., None], key_padding_mask, everything)
        weights = (self._queries(q) @ phi_k.transpose(-1, -2)) * _decay(top, top)
        if self.shape.causal:
            weights = weights.tril()
        return _normalised(weights @ F.pad(v, (0, 1), value=1.0))

    def flops(self, batch_size: int, seq_len: int) -> int:
        """4 N m D for the features of q and k, 4 N m (D + 1) for state and rows; causal adds its chunks."""
        dim, m = self.shape.head_dim, self.features
        per_token = 4 * m * dim + 4 * m * (dim + 1)
        total = seq_len * per_token
        if self.shape.causal:
            total += sum(2 * size**2 * (m + dim + 1) for size in _chunk_sizes(seq_len))
        return batch_size * self.shape.heads * total

    def degenerate(self, seq_len: int) -> bool:
        """No fewer features than tokens: from `features >= seq_len` on nothing is saved."""
        return self.features >= seq_len


def _chunks(n: int) -> list[slice]:
    return [slice(start, min(start + CHUNK, n)) for start in range(0, n, CHUNK)]


def _chunk_sizes(n: int) -> list[int]:
    return [part.stop - part.start for part in _chunks(n)]


def _decay(rows: Tensor, columns: Tensor) -> Tensor:
    """exp(columns_j - rows_i) `[..., n, n]`, 1 at most: what key j's scale is worth in row i."""
    return (columns[..., None, :] - rows[..., :, None]).clamp_max(0.0).exp()


def _normalised(parts: Tensor) -> Tensor:
    """`[..., D + 1]` whose last column is the row's mass -> `[..., D]`; rows without mass become 0."""
    out, mass = parts[..., :-1], parts[..., -1:]
    return out / torch.where(mass == 0, torch.ones_like(mass), mass)
