"""Reformer (Kitaev, Kaiser, Levskaya 2020, arXiv 2001.04451): attention within buckets of similar vectors.

Tokens are hashed by random rotations, sorted by (bucket, position) and cut into chunks of `chunk`; a token sees
its own chunk and the `look_back` before it (section 2, eq. 5 and 6). Several rounds with other rotations are
combined with the weights exp(z_r - z) of their logsumexp (eq. 14). Keys are the normalised queries, and a token
sees itself only if it sees no other ("Shared-QK Transformer", "Causal masking for shared-QK attention").
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from methods.base import Attention, Capabilities, Mode, PerLayer, Shape, Unsupported
from methods.ops.tiles import Workspace
from methods.reformer.chunks import Rules
from methods.reformer.function import HashedAttention
from methods.reformer.hashing import bucket_factors, columns, draw_rotations, hash_buckets, sort_by_bucket
from methods.reformer.reference import attention, multiplicity, target_logits

Scale = Literal["unit", "sqrt"]


class Reformer(Attention):
    """LSH attention with shared queries and keys: `forward` ignores k, whose gradient is zero.

    The number of buckets follows the length the method is built for, 2 seq_len / chunk, and not that of an
    input, and padding sorts behind all buckets: so neither the amount of padding nor the batch changes a result.
    In training every forward draws new rotations, a function of (seed, draw_index); in evaluation they are fixed.

    Budget: `chunk`, the stretch of the sorted sequence that a token sees per round, comparable to a window;
    `rounds` multiplies cost and recall. Which tokens are candidates depends, also in the causal form, on where
    later tokens sort (`candidates_see_future`); their values and logits never enter.
    A NaN or infinity in a token makes NaN of rows of its head, allowed to see it or not, and of no other head.
    """

    capabilities = Capabilities(deterministic=False, shared_qk=True, candidates_see_future=True)
    budget = "chunk"

    def __init__(
        self,
        shape: Shape,
        *,
        rounds: PerLayer = 4,
        chunk: PerLayer = 64,
        buckets: int | None = None,
        look_back: int = 1,
        look_ahead: int = 0,
        eval_rounds: int | None = None,
        deduplicate: bool = True,
        bucket_mask: bool = False,
        wrap: bool = False,
        scale: Scale = "unit",
        layer: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(shape)
        for name, value in (("rounds", rounds), ("chunk", chunk), ("eval_rounds", eval_rounds)):
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: expected an integer >= 1")
        for name, value in (("look_back", look_back), ("look_ahead", look_ahead)):
            if value < 0:
                raise ValueError(f"{name}={value}: expected an integer >= 0")
        if buckets is not None and (buckets < 2 or buckets % 2):
            raise ValueError(f"buckets={buckets}: expected an even number >= 2, or null for 2 seq_len / chunk")
        if scale not in ("unit", "sqrt"):
            raise ValueError(f"scale={scale}: expected unit or sqrt")
        for name, value in (("deduplicate", deduplicate), ("bucket_mask", bucket_mask)):
            if wrap and value:
                raise Unsupported(f"wrap=true reaches into another round: needs {name}=false")
        self.rounds = rounds
        self.eval_rounds = rounds if eval_rounds is None else eval_rounds
        self.chunk = chunk
        self.factors = bucket_factors(2 * -(-shape.seq_len // chunk) if buckets is None else buckets)
        self.rules = Rules(
            chunk=chunk,
            buckets=math.prod(self.factors),
            back=look_back,
            ahead=look_ahead,
            causal=shape.causal,
            wrap=wrap,
            deduplicate=deduplicate,
            bucket_mask=bucket_mask,
            scale=1.0 if scale == "unit" else shape.head_dim**-0.5,
        )
        generator = generator if generator is not None else torch.Generator().manual_seed(layer)
        self.seed = int(torch.randint(1 << 62, (), generator=generator, device=generator.device))
        self.frozen: Tensor
        self.register_buffer(
            "frozen", draw_rotations(shape.heads, self.eval_rounds, shape.head_dim, self.factors, generator)
        )

    def rotations(self) -> Tensor:
        """R `[H, rounds, D, columns]` of the next forward: draw `draw_index` in training, fixed in evaluation."""
        if not self.training:
            return self.frozen
        generator = torch.Generator().manual_seed(self.seed + self.draw_index)
        shape = self.shape
        drawn = draw_rotations(shape.heads, self.rounds, shape.head_dim, self.factors, generator)
        return drawn.to(self.frozen.device)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None) -> Tensor:
        """See `Attention.forward`; k takes no part. A training forward counts `draw_index` up."""
        rotations = self.rotations()
        self.draw_index += self.training
        touched = None if k is q else k
        out: Tensor = HashedAttention.apply(  # type: ignore[no-untyped-call]
            q, touched, v, rotations, self.factors, key_padding_mask, self.rules
        )
        return out

    def candidates(self, q: Tensor, rotations: Tensor, padding: Tensor | None = None) -> Tensor:
        """N_ij int64 `[B, H, N, N]`: in how many rounds query i finds key j (eq. 15)."""
        wide = torch.promote_types(q.dtype, torch.float32)
        buckets = hash_buckets(q.detach(), rotations, self.factors, Workspace(q.device, wide))
        order = sort_by_bucket(buckets, self.rules.buckets, padding)
        return multiplicity(buckets, order, padding, self.rules)

    def dense_reference(
        self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None
    ) -> Tensor:
        """One softmax over the candidates of all rounds, by N x N matrices; of the draw that comes next."""
        counts = self.candidates(q, self.rotations(), key_padding_mask)
        return attention(q, v, counts, key_padding_mask, self.rules) + 0.0 * k

    def target_logits(self, q: Tensor, k: Tensor, first: int = 0) -> Tensor:
        """See `Attention.target_logits`: attention with shared QK over all other tokens."""
        return target_logits(q, k, first, self.rules.scale, self.shape.causal)

    def flops(self, batch_size: int, seq_len: int) -> int:
        """2 D a column of the hash and 4 D a pair of the tiles, in every round."""
        rounds = self.rounds if self.training else self.eval_rounds
        return batch_size * self.shape.heads * rounds * (self._hash_flops(seq_len) + self._tile_flops(seq_len))

    def train_flops(self, batch_size: int, seq_len: int) -> int:
        """The hash once (it has no gradient); of the tiles 3.5 times the forward, with the recomputed scores."""
        round_flops = self._hash_flops(seq_len) + self._tile_flops(seq_len) * 7 // 2
        return batch_size * self.shape.heads * self.rounds * round_flops

    def _hash_flops(self, n: int) -> int:
        return 2 * n * self.shape.head_dim * columns(self.factors)

    def _tile_flops(self, n: int) -> int:
        size = min(self.chunk, n)
        span = size * (1 + self.rules.back + self.rules.ahead)
        return 4 * -(-n // size) * size * span * self.shape.head_dim

    def footprint_bytes(self, batch_size: int, seq_len: int, mode: Mode, itemsize: int) -> int:
        """The output, and in training the gradients of q and v."""
        output = super().footprint_bytes(batch_size, seq_len, mode, itemsize)
        return 3 * output if mode == "train" else output

    def degenerate(self, seq_len: int) -> bool:
        """One chunk holds the sequence: every round computes all pairs."""
        return self.chunk >= seq_len
