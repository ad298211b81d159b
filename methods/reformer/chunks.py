"""Sorted tokens cut into chunks: which row of which token, which pairs count, and their softmax weights.

The rows of all rounds and heads of one unit of work lie one after the other, a chunk multiple for each, with a
halo of neighbouring chunks at both ends, so that every tile of queries sees one contiguous stretch of keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.ops.tiles import LOG2_E, Tiles, Workspace, groups

MASKED = -1e30
"""Added to the logit of a pair that does not count: its weight is exactly 0. Finite, so that sums of it are."""


@dataclass(frozen=True)
class Rules:
    """Who sees whom, and the logit's scale: the parameters of Reformer that a forward needs."""

    chunk: int
    buckets: int
    back: int
    ahead: int
    causal: bool
    wrap: bool
    deduplicate: bool
    bucket_mask: bool
    scale: float


@dataclass(frozen=True)
class Group:
    """Tiles `first` to `last` of round `round`, handled at a time."""

    round: int
    first: int
    last: int


class Frame:
    """The rows and tiles of `heads` heads in `rounds` rounds, whatever their tokens; see `scores_at_once`.

    A head has a slot of whole chunks in each round; ranks from N on are filler. Masks are 0 or MASKED.
    """

    def __init__(
        self,
        heads: int,
        rounds: int,
        n: int,
        rules: Rules,
        device: torch.device,
        dtype: torch.dtype,
        arrays: int,
    ) -> None:
        self.heads, self.rounds, self.n, self.rules = heads, rounds, n, rules
        self.size = size = min(rules.chunk, n)
        self.before, self.after = rules.back * size, rules.ahead * size
        self.span = self.before + size + self.after
        count = -(-n // size)
        self.tiles = heads * count
        self.slot = slot = count * size
        self.rows = heads * slot
        self.total = rounds * self.rows
        head = torch.arange(heads, device=device, dtype=torch.int32)[:, None, None]
        #: First token and first row of each head (and round), to add to positions and ranks `[heads, rounds, N]`.
        self.first_token = head * n
        self.first_row = head * slot + torch.arange(rounds, device=device, dtype=torch.int32)[:, None] * self.rows
        halo = torch.arange(-self.before, self.total + self.after, device=device) % self.total
        #: Where each row of the halo and the rows between lies among the rows.
        self.halo = None if self.before + self.after == 0 else halo
        self.filler = None if slot == n else halo % slot >= n
        chunk = torch.arange(count, device=device)[:, None] * size
        ranks = chunk - self.before + torch.arange(self.span, device=device)
        seen = (ranks % slot < n) if rules.wrap else (ranks >= 0) & (ranks < n)
        #: Holds differences of positions, chunks (doubled) and buckets (times reach) exactly: int16 where it can.
        largest = max(n, 2 * count + self.span, rules.buckets * (1 + rules.back + rules.ahead))
        self.numbers = Workspace(device, torch.int16 if largest < 1 << 15 else dtype)
        self.edges = penalty(~seen, dtype).repeat(heads, 1)
        self.groups = [
            Group(r, *part) for r in range(rounds) for part in groups(self.tiles, size * self.span, device, arrays)
        ]


def penalty(masked: Tensor, dtype: torch.dtype) -> Tensor:
    """0, and MASKED where `masked`."""
    return torch.zeros(masked.shape, dtype=dtype, device=masked.device).masked_fill_(masked, MASKED)


class Chunks:
    """The tokens of a frame's heads, sorted.

    order and rank int32 `[heads, rounds, N]`, each other's inverse; buckets by position of the same shape, None
    unless the rules need them; padding bool `[heads, N]`.
    """

    def __init__(
        self,
        frame: Frame,
        order: Tensor,
        rank: Tensor,
        buckets: Tensor | None,
        padding: Tensor | None,
        space: Workspace,
    ) -> None:
        self.frame, self.rules, self.space = frame, frame.rules, space
        self.size, self.span, self.before, self.after = frame.size, frame.span, frame.before, frame.after
        n, rounds = frame.n, frame.rounds
        tokens = (order + frame.first_token).transpose(0, 1)
        if frame.slot != n:
            tokens = F.pad(tokens, (0, frame.slot - n))
        flat = tokens.reshape(-1)
        #: The token, counted over all heads, of each row, with the halo at both ends.
        self.index = flat if frame.halo is None else flat[frame.halo]
        #: `[heads * N, rounds]`: the row of every token in every round, not counting the halo.
        self.where = (rank + frame.first_row).transpose(1, 2).reshape(frame.heads * n, rounds).contiguous()
        #: bool `[heads * N, 1]` or None.
        self.padding = None if padding is None else padding.reshape(-1, 1)
        self._padded = None if padding is None else penalty(padding.flatten(), space.dtype)[self.index]
        self._positions = self._table(self.index % n) if self.rules.causal or self.rules.wrap else None
        self._chunk_of: list[Tensor] = []
        self._bucket_of: list[Tensor] = []
        if self.rules.deduplicate:  # the last round has no later one that asks
            self._chunk_of = [self._table(rank[:, s] // self.size * 2).flatten() for s in range(rounds - 1)]
        if buckets is not None:
            far = self.rules.back + self.rules.ahead + 1
            self._bucket_of = [self._table(buckets[:, s] * far).flatten() for s in range(rounds)]

    def _table(self, numbers: Tensor) -> Tensor:
        return numbers.to(self.frame.numbers.dtype)

    def query_rows(self, group: Group) -> slice:
        """The group's queries among all rows without halo."""
        start = group.round * self.frame.rows
        return slice(start + group.first * self.size, start + group.last * self.size)

    def key_rows(self, group: Group) -> slice:
        """The rows that the group's queries see, halo counted."""
        rows = self.query_rows(group)
        return slice(rows.start, rows.stop + self.before + self.after)

    def keys(self, table: Tensor, group: Group, name: str) -> Tensor:
        """Rows of `[heads * N, D]` in the group's order, as key tiles `[T, span, D]`."""
        index = self.index[self.key_rows(group)]
        gathered = torch.index_select(table, 0, index, out=self.space.take(name, len(index), table.shape[1]))
        return Tiles(0, self.size, self.span, group.last - group.first).view(gathered)

    def queries(self, table: Tensor, group: Group, name: str) -> Tensor:
        """Rows of `[heads * N, D]` in the group's order, as query tiles `[T, m, D]`."""
        index = self.inner(self.index[self.key_rows(group)])
        gathered = torch.index_select(table, 0, index, out=self.space.take(name, len(index), table.shape[1]))
        return gathered.view(-1, self.size, table.shape[1])

    def inner(self, rows: Tensor) -> Tensor:
        """The part of `key_rows` that are the queries."""
        return rows[self.before : len(rows) - self.after]

    def scores(self, group: Group, q: Tensor, k: Tensor, floor: Tensor) -> Tensor:
        """Logits in units of log 2, plus `floor` `[T * m]` of each row; far below any of them where masked."""
        count = group.last - group.first
        keys = self.frame.edges[group.first : group.last]
        if self._padded is not None:
            keys = keys + self._padded[self.key_rows(group)].unfold(0, self.span, self.size)
        scores = self.space.take("scores", count, self.size, self.span)
        torch.add(keys[:, None], floor.view(count, self.size, 1), out=scores)
        scores.diagonal(self.before, 1, 2).fill_(MASKED)  # itself
        self._mask(scores, group)
        return torch.baddbmm(scores, q, k.transpose(1, 2), alpha=self.rules.scale * LOG2_E, out=scores)

    def _mask(self, scores: Tensor, group: Group) -> None:
        """Adds MASKED to pairs that do not count; by arithmetic, as comparisons are far slower."""
        rules, rows = self.rules, self.key_rows(group)
        if self._positions is not None:
            positions = self._positions[rows]
            gap = self._differences(positions, positions, "pairs")
            if not rules.causal:
                gap.abs_()
            self._punish(scores, gap.sub_(1))
        if self._bucket_of:
            apart = self._bucket_difference(group.round, rows, "pairs")
            self._punish(scores, apart.neg_())
        if self._chunk_of and group.round > 0:
            nearest = self._distance(0, rows, "pairs")
            for earlier in range(1, group.round):
                torch.minimum(nearest, self._distance(earlier, rows, "others"), out=nearest)
            self._punish(scores, nearest.sub_(rules.back + rules.ahead + 1))

    def _punish(self, scores: Tensor, below: Tensor) -> None:
        """Adds MASKED where `below`, which is overwritten, is negative."""
        below.clamp_(-1, 0)
        if below.dtype != scores.dtype:  # an addition of mixed dtypes is slower than a copy and an addition
            below = self.space.take("pairs", *scores.shape).copy_(below)
        scores.add_(below, alpha=-MASKED)

    def _distance(self, r: int, rows: slice, name: str) -> Tensor:
        """At most back + ahead where round r makes the pair a candidate, at least one more where it does not."""
        chunk_of = torch.index_select(self._chunk_of[r], 0, self.index[rows])
        shift = self.rules.back - self.rules.ahead  # -ahead <= c_i - c_j <= back, doubled and centred
        distance = self._differences(chunk_of - shift, chunk_of, name).abs_()
        if self._bucket_of:
            torch.maximum(distance, self._bucket_difference(r, rows, "buckets"), out=distance)
        return distance

    def _bucket_difference(self, r: int, rows: slice, name: str) -> Tensor:
        """0 in the same bucket of round r, at least back + ahead + 1 in another."""
        bucket_of = torch.index_select(self._bucket_of[r], 0, self.index[rows])
        return self._differences(bucket_of, bucket_of, name).abs_()

    def _differences(self, queries: Tensor, keys: Tensor, name: str) -> Tensor:
        """`[T, m, span]`: a number of each query row less one of each key row."""
        left = self.inner(queries).view(-1, self.size, 1)
        right = keys.unfold(0, self.span, self.size)[:, None]
        return torch.sub(left, right, out=self.frame.numbers.take(name, len(left), self.size, self.span))

    def spread(self, x: Tensor, group: Group, shares: Tensor) -> None:
        """Rows x `[halo and rows, D]` += shares `[T, span, D]` of the keys that a group of tiles saw.

        Groups come in their order: rows that no earlier one reached are written, so that x need not be zero.
        """
        rows, count, reach = x[self.key_rows(group)], len(shares), self.before + self.after
        if group == self.frame.groups[0]:
            rows[:reach].zero_()
        rows[reach:].view(count, self.size, -1).copy_(shares[:, reach:])
        for low in range(0, reach, self.size):
            rows[low : low + count * self.size].view(count, self.size, -1).add_(shares[:, low : low + self.size])

    def fold_halo(self, x: Tensor) -> Tensor:
        """`[halo and rows, D]` of gradients -> those of the rows; with `wrap` the halo's go to its source."""
        frame = self.frame
        inner = x[self.before : self.before + frame.total]
        if self.rules.wrap and frame.halo is not None:
            for outer in (slice(0, self.before), slice(self.before + frame.total, len(x))):
                inner.index_add_(0, frame.halo[outer], x[outer])
        return inner
