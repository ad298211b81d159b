"""Reformer as in lucidrains' reformer-pytorch: `LSHAttention`.

Queries are keys (q is used, k is not); logits are q . k / (|k| sqrt(D)), a scale that neither trax nor Hugging
Face has. The same rotations hash all heads and rows. What differs from the paper by default: pairs met in
several rounds count as often (`dedupe` corrects that, eq. 16; but a pair met across the seam of two rounds only
gets the weight e^20.7, as it counts 0 + 1e-9 times there), and a chunk attends to whatever it holds
(`own_bucket` masks that, eq. 4). The first chunk of a round looks back at the last of the round
before. Padding has no bucket of its own: it moves the chunks of real tokens about.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.adapters.lsh import multiset_softmax, pair_counts
from methods.adapters.optional import require
from methods.adapters.seams import ThirdParty, construction, draw_seed, seeded
from methods.base import Capabilities, PerLayer, Shape
from methods.reformer.reference import target_logits

SELF = -5e4
"""The logit of a token with itself."""

COUNT_EPS = 1e-9
"""What it adds to the number of times that a pair was met."""


class LucidrainsReformer(ThirdParty):
    """Chunks of `chunk` tokens, N / chunk buckets; `rounds` hashes anew each training forward."""

    capabilities = Capabilities(deterministic=False, shared_qk=True, candidates_see_future=True)
    budget = "chunk"

    def __init__(
        self,
        shape: Shape,
        *,
        rounds: PerLayer = 4,
        chunk: PerLayer = 64,
        dedupe: bool = False,
        own_bucket: bool = False,
        layer: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        if rounds < 1:
            raise ValueError(f"rounds={rounds}: expected an integer >= 1")
        if chunk < 1:
            raise ValueError(f"chunk={chunk}: expected an integer >= 1")
        reformer = require("reformer_pytorch", "reformer-pytorch")
        super().__init__(shape, "reformer-pytorch")
        self.rounds = rounds
        self.chunk = chunk
        self.dedupe = dedupe
        self.own_bucket = own_bucket
        self.seed = draw_seed(generator, layer)
        with construction(0):
            self.attention = reformer.LSHAttention(
                bucket_size=chunk,
                n_hashes=rounds,
                causal=shape.causal,
                allow_duplicate_attention=not dedupe,
                attend_across_buckets=not own_bucket,
            )

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None) -> Tensor:
        """See `Attention.forward`; k is not looked at."""
        batch, heads, n, _ = q.shape
        q, v, real = self._padded(q, v, key_padding_mask)
        with seeded(self.next_seed(self.seed), q.device):
            out: Tensor = self.attention(q, v, input_mask=real)[0]
        return out[:, :n].view(batch, heads, n, -1)

    def _padded(self, q: Tensor, v: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """`[B * H, M, D]` with an even number of whole chunks, and True at tokens where some are none."""
        batch, heads, n, _ = q.shape
        tail = -n % (2 * self.chunk)
        q, v = (F.pad(x.flatten(0, 1), (0, 0, 0, tail)) if tail else x.flatten(0, 1) for x in (q, v))
        if padding is None and not tail:
            return q, v, None
        real = torch.ones(batch, n, dtype=torch.bool, device=q.device) if padding is None else ~padding
        return q, v, F.pad(real, (0, tail)).repeat_interleave(heads, dim=0)

    def dense_reference(
        self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None
    ) -> Tensor:
        """One softmax over the multiset (the set under `dedupe`) of pairs that the chunks hold, itself last."""
        batch, heads, n, dim = q.shape
        q, v, real = self._padded(q, v, key_padding_mask)
        length = q.shape[-2]
        with seeded((self.seed + self.draw_index) % 2**32, q.device):
            buckets = self.attention.hash_vectors(length // self.chunk, q, set_cache=False)
        buckets = buckets.view(-1, 1, self.rounds, length)
        times = pair_counts(buckets, self.chunk, same_bucket=self.own_bucket)[:, 0]
        logits = q @ F.normalize(q, dim=-1).transpose(-1, -2) * dim**-0.5
        masked = torch.finfo(q.dtype).min / 2
        if real is not None:
            logits = logits.masked_fill(~(real[:, :, None] & real[:, None, :]), masked)
        if self.shape.causal:
            logits = logits.masked_fill(~torch.ones_like(times[0], dtype=torch.bool).tril(), masked)
        logits = logits.masked_fill(torch.eye(length, dtype=torch.bool, device=q.device), SELF)
        if self.dedupe:
            seen = pair_counts(buckets, self.chunk, same_bucket=self.own_bucket, same_round=True)[:, 0]
            logits = logits - (seen + COUNT_EPS).log()  # in float32, whatever q is, as there
        out = multiset_softmax(logits, times) @ v
        return out[:, :n].view(batch, heads, n, dim)

    def target_logits(self, q: Tensor, k: Tensor, first: int = 0) -> Tensor:
        """See `Attention.target_logits`: attention with shared QK over all other tokens."""
        return target_logits(q, k, first, self.shape.head_dim**-0.5, self.shape.causal)

    def flops(self, batch_size: int, seq_len: int) -> int:
        """N D b / 2 a round to hash into b = N / chunk buckets, and 4 D a pair: 2 N chunk of them a round."""
        hashing, pairs = self._round_flops(seq_len)
        return batch_size * self.shape.heads * self.rounds * (hashing + pairs)

    def train_flops(self, batch_size: int, seq_len: int) -> int:
        """The hash once, since it has no gradient, and three times the pairs."""
        hashing, pairs = self._round_flops(seq_len)
        return batch_size * self.shape.heads * self.rounds * (hashing + 3 * pairs)

    def _round_flops(self, seq_len: int) -> tuple[int, int]:
        """Of a head in a round: 2 N D (b / 2) to hash, and the pairs."""
        n = seq_len + -seq_len % (2 * self.chunk)
        return n * self.shape.head_dim * (n // self.chunk), 8 * n * self.shape.head_dim * self.chunk

    def degenerate(self, seq_len: int) -> bool:
        """One chunk holds the sequence: every round computes all pairs."""
        return self.chunk >= seq_len
