"""BigBird-ITC (Zaheer et al. 2020, arXiv 2007.14062): blocks that attend a window, global and random blocks.

Tokens form blocks (appendix D). The first half of the global blocks lies at the start, the rest at the end; of
an odd number the start has one more. They attend and are attended by all. Every other block attends the global
blocks, the window of blocks around it, and random blocks (section 2). One softmax runs over that union, in
which no key counts twice. The last block may be short; a row of a padded batch ends with its last real token,
and its blocks are those of a sequence of that length, so that the amount of padding changes nothing.

Random blocks are drawn for each layer and head, and are the same in training and evaluation: a pure function
of (a seed drawn at construction, layer, head, number of blocks). An input with fewer blocks than the pattern
needs gives each row as many random blocks as there are; the constructor refuses a `seq_len` of that kind.

There is no dropout of attention weights, as in the reference's block path, and no causal form: the paper keeps
full attention in decoders (section 4.1). Positions are the encoder's; relative ones belong to ETC.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from methods.base import Attention, Capabilities, PerLayer, Shape, Unsupported
from methods.bigbird.attention import BlockAttention, Job, runs
from methods.bigbird.lanes import Layout
from methods.bigbird.plan import PREFIX_TOKENS, Pattern, RandomRange, Rows
from methods.ops.dense import allowed_keys, both, dense_attention
from methods.ops.fused import fused_attention

Backend = Literal["auto", "tiles", "dense"]

BACKENDS = ("auto", "tiles", "dense")


class BigBird(Attention):
    """`auto` is `tiles`: no N x N scores, forward or backward. `dense` masks torch's fused attention.

    A NaN or infinity in q spoils its own row, one in k or v the rows whose pattern holds its block.
    """

    capabilities = Capabilities(causal=False, deterministic=False)
    budget = "block"

    def __init__(
        self,
        shape: Shape,
        *,
        block: PerLayer = 64,
        window_blocks: int = 3,
        global_blocks: int = 2,
        random_blocks: PerLayer = 3,
        random_range: RandomRange = "all",
        allow_short: bool = False,
        backend: Backend = "auto",
        layer: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(shape)
        check(block, window_blocks, random_blocks, random_range)
        if global_blocks < 0:
            raise ValueError(f"global_blocks={global_blocks}: expected an integer >= 0")
        if backend not in BACKENDS:
            raise ValueError(f"backend={backend}: expected one of {', '.join(BACKENDS)}")
        self.block = block
        self.choice = backend
        self.table: Tensor | None = None
        front = -(-global_blocks // 2)
        self._place(
            Pattern(block, window_blocks, front, global_blocks - front, random_blocks, random_range),
            front_tokens=0,
            allow_short=allow_short,
            layer=layer,
            generator=generator,
        )

    def _place(
        self,
        blocks: Pattern,
        *,
        front_tokens: int,
        allow_short: bool,
        layer: int,
        generator: torch.Generator | None,
    ) -> None:
        """Keep the pattern and draw the seed of its plan; Unsupported where seq_len is too short for it."""
        self.blocks = blocks
        self.layer = layer
        self.front_tokens = front_tokens
        count = self.layout(self.shape.seq_len).blocks
        if not allow_short and blocks.is_short(count):
            raise Unsupported(self._too_short())
        generator = generator if generator is not None else torch.Generator().manual_seed(layer)
        self.seed: Tensor
        self.register_buffer("seed", torch.randint(2**31, (), generator=generator))
        self._plans: dict[tuple[int, torch.device], list[Rows]] = {}

    def _too_short(self) -> str:
        made = self.blocks
        words = f"window_blocks={made.window_blocks} random_blocks={made.random_blocks}"
        least = (made.needed_blocks() - 1) * made.block + 1
        if self.front_tokens:
            least += self.front_tokens - made.front * made.block
        if self.shape.seq_len >= least:
            return (
                f"random_range={made.random_range}: block={made.block} {words} leaves a row too few blocks "
                f"to draw in the first {PREFIX_TOKENS} tokens; allow_short=true draws fewer"
            )
        return (
            f"seq_len={self.shape.seq_len}: {type(self).__name__} with block={made.block} {words} needs at least "
            f"{least} tokens ({made.needed_blocks()} blocks); allow_short=true draws fewer random blocks"
        )

    def layout(self, length: int) -> Layout:
        """How a sequence of `length` tokens lies in blocks."""
        return Layout(self.block, length, self.front_tokens)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None) -> Tensor:
        """See `Attention.forward`; padded rows give 0."""
        if self.choice == "dense":
            return self._dense(q, k, v, key_padding_mask)
        self.backend = "tiles"
        job = Job(runs(key_padding_mask, self.layout(q.shape[2]), q.shape[0]), self._plan, self.reach)
        out: Tensor = BlockAttention.apply(q, k, v, self.table, key_padding_mask, job)  # type: ignore[no-untyped-call]
        return out

    @property
    def reach(self) -> int:
        """Distance at which relative labels are clipped; 0 for none."""
        return 0

    def _dense(self, q: Tensor, k: Tensor, v: Tensor, padding: Tensor | None) -> Tensor:
        mask = self.mask(q.shape[2], padding, q.device)
        out, self.backend = fused_attention(q, k, v, mask=mask)
        return out if padding is None else out.masked_fill(padding[:, None, :, None], 0.0)

    def _entropy(self) -> tuple[int, int]:
        return int(self.seed), self.layer

    def _plan(self, blocks: int) -> list[Rows]:
        """The plan for this many blocks, drawn once and kept."""
        key = (blocks, self.seed.device)
        if key not in self._plans:
            self._plans[key] = self.blocks.plan(blocks, self.shape.heads, self._entropy(), self.seed.device)
        return self._plans[key]

    def _load_from_state_dict(self, *args: Any) -> None:
        """Loading may change the seed."""
        super()._load_from_state_dict(*args)
        self._plans.clear()

    def pattern(self, n: int, device: torch.device | None = None) -> Tensor:
        """bool `[H, n, n]`: True where token i attends token j of a sequence of n."""
        layout = self.layout(n)
        held = self.blocks.matrix(layout.blocks, self.shape.heads, self._entropy()).to(device)
        rows = torch.cat([torch.arange(rows.start, rows.stop) for _, rows in layout.stretches()]).to(device)
        at = rows // self.block
        return held[:, at][:, :, at]

    def mask(self, n: int, padding: Tensor | None, device: torch.device) -> Tensor:
        """bool `[B or 1, H, n, n]`: the pattern of each batch row's own length, without padded keys."""
        if padding is None:
            return self.pattern(n, device)[None]
        mask = torch.zeros(len(padding), self.shape.heads, n, n, dtype=torch.bool, device=device)
        for run in runs(padding, self.layout(n), len(padding)):
            length = run.layout.length
            mask[run.batch, :, :length, :length] = self.pattern(length, device)
        return mask & ~padding[:, None, None, :] & ~padding[:, None, :, None]

    def dense_reference(
        self, q: Tensor, k: Tensor, v: Tensor, *, key_padding_mask: Tensor | None = None
    ) -> Tensor:
        """Softmax over N x N scores under the boolean pattern."""
        mask = self.mask(q.shape[2], key_padding_mask, q.device)
        return dense_attention(q, k, v, both(allowed_keys(key_padding_mask), mask))

    def flops(self, batch_size: int, seq_len: int) -> int:
        """4 D a pair of the blocks that attend; of every pair with `backend=dense`."""
        layout = self.layout(seq_len)
        pairs = self.blocks.pairs(layout.blocks) * self.block**2 if self.choice != "dense" else seq_len**2
        return 4 * batch_size * self.shape.heads * pairs * self.shape.head_dim

    def train_flops(self, batch_size: int, seq_len: int) -> int:
        """3.5 times the forward: the backward recomputes the scores, 5 products against 2."""
        return self.flops(batch_size, seq_len) * 7 // 2

    def degenerate(self, seq_len: int) -> bool:
        """Every block attends every block, so that nothing is saved."""
        return self.blocks.covers(self.layout(seq_len).blocks)


def check(block: int, window_blocks: int, random_blocks: int, random_range: str) -> None:
    """ValueError for a parameter outside its range."""
    if block < 1:
        raise ValueError(f"block={block}: expected an integer >= 1")
    if window_blocks < 1 or window_blocks % 2 == 0:
        raise ValueError(f"window_blocks={window_blocks}: expected an odd number >= 1")
    if random_blocks < 0:
        raise ValueError(f"random_blocks={random_blocks}: expected an integer >= 0")
    if random_range not in ("all", "prefix"):
        raise ValueError(f"random_range={random_range}: expected one of all, prefix")
