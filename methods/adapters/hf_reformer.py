"""Reformer as in Hugging Face transformers: `LSHSelfAttention`.

Queries are keys (q is used, k is not), keys are normalised to root mean square 1 and divided by sqrt(D), which
makes logits q . k / |k|. What differs from the paper: a chunk attends to whatever it holds, not only to its
bucket; a pair met in several rounds counts as often; the first chunk of a round looks back at the last chunk
of the round before, the first of all at the very last. The number of buckets is fixed by the first
input that it sees (the adapter lets it choose for each length), and `hash_seed` reseeds torch's global
generator (the adapter leaves it unset). Inputs of up to one chunk get full attention, without hashing.
"""

from __future__ import annotations

import logging
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.adapters.lsh import multiset_softmax, pair_counts
from methods.adapters.optional import require
from methods.adapters.seams import (
    Given,
    ThirdParty,
    construction,
    draw_seed,
    merge_heads,
    placeholder,
    seeded,
    split_heads,
)
from methods.base import Capabilities, PerLayer, Shape
from methods.reformer.reference import target_logits

ITSELF, MASKED = -1e5, -1e9
"""Logits of a token with itself, and of masked pairs; in float16 -1e3 and -1e4."""


class HFReformer(ThirdParty):
    """`rounds` hashes anew each training forward, and with one draw in evaluation; padding has its own bucket."""

    capabilities = Capabilities(deterministic=False, shared_qk=True, candidates_see_future=True)
    budget = "chunk"

    def __init__(
        self,
        shape: Shape,
        *,
        rounds: PerLayer = 4,
        chunk: PerLayer = 64,
        layer: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        if rounds < 1:
            raise ValueError(f"rounds={rounds}: expected an integer >= 1")
        if chunk < 1:
            raise ValueError(f"chunk={chunk}: expected an integer >= 1")
        reformer = require("transformers.models.reformer.modeling_reformer", "transformers")
        super().__init__(shape, "transformers")
        self.rounds = rounds
        self.chunk = chunk
        self.seed = draw_seed(generator, layer)
        config = reformer.ReformerConfig(
            attention_head_size=shape.head_dim,
            num_attention_heads=shape.heads,
            hidden_size=shape.heads * shape.head_dim,
            lsh_attn_chunk_length=chunk,
            num_hashes=rounds,
            num_buckets=None,
            lsh_num_chunks_before=1,
            lsh_num_chunks_after=0,
            lsh_attention_probs_dropout_prob=0.0,
            hash_seed=None,
            is_decoder=shape.causal,
            max_position_embeddings=max(4096, shape.seq_len),
        )
        with construction(0):
            self.attention = reformer.LSHSelfAttention(config, layer_idx=0)
        self.attention.query_key = Given()
        self.attention.value = Given()
        self._buckets: dict[int, int | list[int]] = {}

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None) -> Tensor:
        """See `Attention.forward`; k is not looked at."""
        n, inner = q.shape[-2], self.attention
        q, v, real = self._padded(q, v, key_padding_mask)
        if q.shape[-2] > self.chunk:
            inner.num_buckets = self._bucket_count(q.shape[-2])
        inner.query_key.give(merge_heads(q))
        inner.value.give(merge_heads(v))
        with seeded(self.next_seed(self.seed), q.device):
            out = inner(placeholder(q, q.shape[-2]), attention_mask=real).hidden_states
        return split_heads(out, q.shape[1], n)

    def _padded(self, q: Tensor, v: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """q, v to whole chunks (a single one need not be whole), and True at tokens where some are none."""
        n = q.shape[-2]
        tail = -n % self.chunk if n > self.chunk else 0
        if padding is None and not tail:
            return q, v, None
        real = torch.ones(q.shape[0], n, dtype=torch.bool, device=q.device) if padding is None else ~padding
        return F.pad(q, (0, 0, 0, tail)), F.pad(v, (0, 0, 0, tail)), F.pad(real, (0, tail))

    def _bucket_count(self, n: int) -> int | list[int]:
        """About 2 n / chunk, as the module chooses it for n tokens; it says so in a warning each time."""
        if n not in self._buckets:
            logger = logging.getLogger(type(self.attention).__module__)
            level = logger.level
            logger.setLevel(logging.ERROR)
            self.attention._set_num_buckets(n)
            logger.setLevel(level)
            self._buckets[n] = self.attention.num_buckets
        return self._buckets[n]

    def dense_reference(
        self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None
    ) -> Tensor:
        """One softmax over the multiset of pairs that the chunks hold, itself last, under the module's hash."""
        n, inner = q.shape[-2], self.attention
        q, v, real = self._padded(q, v, key_padding_mask)
        length = q.shape[-2]
        times = torch.ones(1, 1, length, length, dtype=torch.long, device=q.device)
        if length > self.chunk:
            inner.num_buckets = self._bucket_count(length)
            with seeded((self.seed + self.draw_index) % 2**32, q.device):
                buckets = inner._hash_vectors(q, self.rounds, real)
            times = pair_counts(buckets.view(*buckets.shape[:2], self.rounds, length), self.chunk)
        keys = q * (q.square().mean(-1, keepdim=True) + 1e-6).rsqrt() / math.sqrt(q.shape[-1])
        logits = q @ keys.transpose(-1, -2)
        itself, masked = (-1e3, -1e4) if q.dtype == torch.float16 else (ITSELF, MASKED)
        if real is not None:
            logits = logits.masked_fill(~real[:, None, None, :], masked)
        if self.shape.causal:
            logits = logits.masked_fill(~torch.ones_like(times[0, 0], dtype=torch.bool).tril(), masked)
        logits = logits.masked_fill(torch.eye(length, dtype=torch.bool, device=q.device), itself)
        return (multiset_softmax(logits, times) @ v)[:, :, :n]

    def target_logits(self, q: Tensor, k: Tensor, first: int = 0) -> Tensor:
        """See `Attention.target_logits`: attention with shared QK over all other tokens."""
        return target_logits(q, k, first, 1.0, self.shape.causal)

    def flops(self, batch_size: int, seq_len: int) -> int:
        """N D b / 2 a round to hash into b buckets, and 4 D a pair: 2 N chunk of them a round."""
        dim, n = self.shape.head_dim, seq_len
        if n <= self.chunk:
            return batch_size * self.shape.heads * 4 * n * n * dim
        n += -n % self.chunk
        pairs = batch_size * self.shape.heads * self.rounds * n * dim * 8 * self.chunk
        return self._hash_flops(batch_size, seq_len) + pairs

    def train_flops(self, batch_size: int, seq_len: int) -> int:
        """The hash once, since it has no gradient, and three times the pairs."""
        return 3 * self.flops(batch_size, seq_len) - 2 * self._hash_flops(batch_size, seq_len)

    def _hash_flops(self, batch_size: int, seq_len: int) -> int:
        if seq_len <= self.chunk:  # nothing is hashed
            return 0
        n = seq_len + -seq_len % self.chunk
        buckets = self._bucket_count(n)
        rotations = (buckets if isinstance(buckets, int) else sum(buckets)) // 2
        return 2 * batch_size * self.shape.heads * self.rounds * n * self.shape.head_dim * rotations

    def degenerate(self, seq_len: int) -> bool:
        """One chunk holds the sequence: every round computes all pairs."""
        return self.chunk >= seq_len
