"""What ITC and ETC share: a block pattern over the tokens, its plan, and attention along it."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from methods.base import Attention, Capabilities, Shape, Unsupported
from methods.bigbird.attention import BlockAttention, Job, runs
from methods.bigbird.lanes import Layout
from methods.bigbird.plan import PREFIX_TOKENS, Pattern, Rows
from methods.ops.dense import allowed_keys, both, dense_attention
from methods.ops.fused import fused_attention

Backend = Literal["auto", "tiles", "dense"]


class BlockSparse(Attention):
    """Attention of blocks to blocks. Subclasses set the pattern; `front_tokens` fill blocks of their own."""

    capabilities = Capabilities(causal=False, deterministic=False)
    budget = "block"
    recomputes_scores = True

    def __init__(
        self,
        shape: Shape,
        blocks: Pattern,
        *,
        front_tokens: int,
        allow_short: bool,
        layer: int,
        generator: torch.Generator,
        backend: Backend = "auto",
        reach: int = 0,
    ) -> None:
        super().__init__(shape)
        self.blocks = blocks
        self.block = blocks.block
        self.layer = layer
        self.front_tokens = front_tokens
        self.choice = backend
        self.reach = reach
        self.table: Tensor | None = None
        if not allow_short and blocks.is_short(self.layout(shape.seq_len).blocks):
            raise Unsupported(self._too_short())
        self.seed: Tensor
        self.register_buffer("seed", torch.randint(2**31, (), generator=generator))
        self._plans: dict[tuple[int, torch.device], list[Rows]] = {}

    def _too_short(self) -> str:
        made = self.blocks
        words = f"window_blocks={made.window_blocks} random_blocks={made.random_blocks}"
        least = (made.needed_blocks() - 1) * made.block + 1
        if self.front_tokens:
            least += self.front_tokens - made.front * made.block
        held = f" with {self.front_tokens} global tokens" if self.front_tokens else ""
        if self.shape.seq_len >= least:
            return (
                f"random_range={made.random_range}: block={made.block} {words} leaves a row too few blocks "
                f"to draw in the first {PREFIX_TOKENS} tokens; allow_short=true draws fewer"
            )
        return (
            f"seq_len={self.shape.seq_len}{held}: {type(self).__name__} with block={made.block} {words} needs "
            f"at least {least} tokens ({made.needed_blocks()} blocks); allow_short=true draws fewer random blocks"
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

    def attended(self, n: int, device: torch.device | None = None) -> Tensor:
        """bool `[H, n, n]`: True where token i attends token j of a sequence of n."""
        layout = self.layout(n)
        held = self.blocks.matrix(layout.blocks, self.shape.heads, self._entropy()).to(device)
        rows = torch.cat([torch.arange(rows.start, rows.stop) for _, rows in layout.stretches()]).to(device)
        at = rows // self.block
        return held[:, at][:, :, at]

    def mask(self, n: int, padding: Tensor | None, device: torch.device) -> Tensor:
        """bool `[B or 1, H, n, n]`: the pattern of each batch row's own length, without padded keys."""
        if padding is None:
            return self.attended(n, device)[None]
        mask = torch.zeros(len(padding), self.shape.heads, n, n, dtype=torch.bool, device=device)
        for run in runs(padding, self.layout(n), len(padding)):
            length = run.layout.length
            mask[run.batch, :, :length, :length] = self.attended(length, device)
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

    def degenerate(self, seq_len: int) -> bool:
        """Every block attends every block, so that nothing is saved."""
        return self.blocks.covers(self.layout(seq_len).blocks)
