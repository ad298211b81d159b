"""ListOps: nested list operations on digits, to be evaluated (Long Range Arena's generator).

Nangia and Bowman (2018), arXiv:1804.06028; Tay et al., Long Range Arena (2020), arXiv:2011.04006;
google-research/long-range-arena, lra_benchmarks/data/listops.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.base import Examples, SplitName, Task, majority_share
from tasks.data import Table, cached, row_digests
from tasks.seeds import generator
from tasks.splits import check_at_least, split_counts

Ints = NDArray[np.int64]

#: The symbol of each id; 0 is padding. Round brackets carry no information and are left out.
SYMBOLS = ("<pad>", *"0123456789", "[MIN", "[MAX", "[MED", "[SM", "]")
_DIGIT, _OPERATOR, _CLOSE = 1, 11, 15
_P_OPERATOR = 0.25

_BATCH = 8192  # trees grown at once
_WINDOW = 1_000_000  # attempts between two looks at progress
_HOPELESS = 10  # new trees in a window, below which we give up


class ListOps(Task):
    """Ten-way classification of an expression such as `[MAX 2 [MIN 4 7 ] 0 ]` by its value, here 4.

    A node above depth `max_depth` is an operator with probability 1/4, else a uniform digit; an
    operator has 2..max_args arguments and is MIN, MAX, MED (median, mean of the middle two,
    truncated) or SM (sum modulo 10), all uniform. Trees are drawn until enough different ones
    have min_length < length < max_length, the length being the number of tokens.

    seq_len: rows are padded to it; at least the longest expression, max_length - 1.
    Defaults are those of Long Range Arena. There the set of accepted trees, shuffled, is cut into
    the splits, and so it is here, but with a seed. Made once, then read from the cache.
    """

    def __init__(
        self,
        *,
        seq_len: int,
        seed: int,
        min_length: int = 500,
        max_length: int = 2000,
        max_depth: int = 10,
        max_args: int = 10,
        train_examples: int = 96_000,
        dev_examples: int = 2_000,
        test_examples: int = 2_000,
    ) -> None:
        super().__init__(seq_len=seq_len, seed=seed)
        check_at_least(min_length, 0, "min_length")
        check_at_least(max_length, min_length + 2, "max_length", f"min_length + 2, min_length={min_length}")
        check_at_least(max_depth, 1, "max_depth")
        check_at_least(max_args, 2, "max_args")
        largest = largest_tree(max_depth, max_args, stop=max_length)
        if largest <= min_length:
            raise ValueError(
                f"min_length={min_length}: expected at most {largest - 1} "
                f"(max_depth={max_depth}, max_args={max_args} give no longer expression than {largest})"
            )
        longest = min(max_length - 1, largest)
        check_at_least(seq_len, longest, "seq_len", f"the longest expression, max_length={max_length}")
        self._counts = split_counts(train_examples, dev_examples, test_examples)
        self.shape = TreeShape(min_length, max_length, max_depth, max_args)

    @property
    def vocab_size(self) -> int:
        """15 symbols and padding."""
        return len(SYMBOLS)

    @property
    def num_classes(self) -> int:
        """The digits."""
        return 10

    @property
    def chance(self) -> float:
        """Share of the most frequent label of the test split: no constant answer scores more there."""
        return majority_share(self.examples("test").targets)

    def examples(self, split: SplitName) -> Examples:
        """The whole split; tokens uint8 `[n, seq_len]`, targets int64 `[n]`, 0..9."""
        start = 0
        for name, count in self._counts.items():
            if name == split:
                break
            start += count
        rows = slice(start, start + self._counts[split])
        symbols = self._table["tokens"][rows]
        width = min(symbols.shape[1], self.seq_len)  # columns cut off, if any, are padding in every row
        tokens = torch.full((len(symbols), self.seq_len), self.pad_id, dtype=torch.uint8)
        tokens.numpy()[:, :width] = symbols[:, :width]
        return Examples(
            tokens,
            torch.from_numpy(self._table["targets"][rows].astype(np.int64)),
            torch.from_numpy(self._table["lengths"][rows].astype(np.int32)),
        )

    @cached_property
    def _table(self) -> Table:
        total = sum(self._counts.values())
        identity = {**vars(self.shape), "total": total, "seed": self.seed}
        sources = ("tasks.listops", "tasks.seeds", type(self).__module__)
        return cached("listops", identity, sources, lambda: self._generate(total))

    def _generate(self, total: int) -> Table:
        trees = sample(generator(self.seed, "trees"), total, self.shape)
        order = generator(self.seed, "shuffle").permutation(total)
        return {"tokens": trees.tokens[order], "targets": trees.values[order], "lengths": trees.lengths[order]}


@dataclass(frozen=True)
class TreeShape:
    """Which trees: min_length < length < max_length (both excluded), the root at depth 1."""

    min_length: int
    max_length: int
    max_depth: int
    max_args: int


@dataclass(frozen=True)
class Trees:
    """Accepted trees: tokens uint8 `[n, max_length - 1]`, values uint8 `[n]`, lengths int64 `[n]`, attempts."""

    tokens: NDArray[np.uint8]
    values: NDArray[np.uint8]
    lengths: Ints
    attempts: int


def largest_tree(max_depth: int, max_args: int, stop: int) -> int:
    """Tokens of the fullest tree, or some number of at least `stop`."""
    size = 1
    for _ in range(max_depth - 1):
        size = 2 + max_args * size
        if size >= stop:
            break
    return size


def sample(rng: np.random.Generator, count: int, shape: TreeShape) -> Trees:
    """The first `count` different trees of the wanted length; ValueError when they are too rare."""
    seen: set[bytes] = set()
    found: list[Trees] = []
    attempts = seen_before = 0
    next_look = _WINDOW
    while len(seen) < count:
        trees = write(rng, grow(rng, shape), shape.max_length - 1)
        new: list[int] = []
        for row, digest in enumerate(row_digests(trees.tokens)):
            if digest not in seen and len(seen) < count:
                seen.add(digest)
                new.append(row)
        found.append(Trees(trees.tokens[new], trees.values[new], trees.lengths[new], _BATCH))
        attempts += _BATCH
        if attempts < next_look:
            continue
        if len(seen) < min(count, seen_before + _HOPELESS):
            raise ValueError(
                f"min_length={shape.min_length}: only {len(seen)} of {count} different expressions found in "
                f"{attempts} attempts (max_length={shape.max_length}, max_depth={shape.max_depth}, "
                f"max_args={shape.max_args}); widen the range of lengths or ask for fewer"
            )
        seen_before, next_look = len(seen), attempts + _WINDOW
    return Trees(
        np.concatenate([t.tokens for t in found]),
        np.concatenate([t.values for t in found]),
        np.concatenate([t.lengths for t in found]),
        attempts,
    )


def grow(rng: np.random.Generator, shape: TreeShape) -> list[tuple[Ints, Ints]]:
    """Attempt `_BATCH` trees, all level by level; keep those of the wanted length.

    A level is (owner, args) over its nodes, in the order of their parents: the tree a node belongs
    to, and its number of arguments, 0 for a digit.
    """
    owner = np.arange(_BATCH)
    length = np.zeros(_BATCH, dtype=np.int64)
    levels: list[tuple[Ints, Ints]] = []
    for depth in range(1, shape.max_depth + 1):
        args = np.zeros(owner.size, dtype=np.int64)
        if depth < shape.max_depth:
            operators = np.flatnonzero(rng.random(owner.size) <= _P_OPERATOR)
            args[operators] = rng.integers(2, shape.max_args + 1, size=operators.size)
        length += np.bincount(owner, weights=1 + (args > 0), minlength=_BATCH).astype(np.int64)
        # an argument is one token at least: what is too long by then is given up
        pending = np.bincount(owner, weights=args, minlength=_BATCH).astype(np.int64)
        hopeless = length + pending >= shape.max_length
        length[hopeless] = shape.max_length
        levels.append((owner, args))
        owner = np.repeat(owner, np.where(hopeless[owner], 0, args))
    accepted = (length > shape.min_length) & (length < shape.max_length)
    number = np.cumsum(accepted) - 1
    return [(number[owner[keep]], args[keep]) for owner, args in levels for keep in [accepted[owner]]]


def write(rng: np.random.Generator, levels: list[tuple[Ints, Ints]], width: int) -> Trees:
    """Draw digits and operators, evaluate from the leaves up, and write the trees out as token rows."""
    sizes: list[Ints] = []
    symbols: list[Ints] = []
    value, size = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    for _, args in reversed(levels):
        below_value, below_size = value, size
        value = rng.integers(10, size=args.size)
        symbol = _DIGIT + value
        size = np.ones(args.size, dtype=np.int64)
        operators = np.flatnonzero(args)
        if operators.size:
            operator = rng.integers(4, size=operators.size)
            start = np.cumsum(args[operators]) - args[operators]
            symbol[operators] = _OPERATOR + operator
            size[operators] = 2 + np.add.reduceat(below_size, start)
            value[operators] = evaluate(operator, below_value, start, args[operators])
        sizes.insert(0, size)
        symbols.insert(0, symbol)

    rows = levels[0][0].size
    tokens = np.zeros((rows, width), dtype=np.uint8)
    flat = tokens.reshape(-1)
    position = np.arange(rows) * width  # of the nodes' first tokens
    for level, (_, args) in enumerate(levels):
        operators = np.flatnonzero(args)
        flat[position] = symbols[level]
        flat[position[operators] + sizes[level][operators] - 1] = _CLOSE
        if not operators.size:
            break
        count = args[operators]
        before = np.cumsum(sizes[level + 1]) - sizes[level + 1]  # tokens of the nodes to the left
        first = np.cumsum(count) - count
        position = np.repeat(position[operators] + 1 - before[first], count) + before
    return Trees(tokens, value.astype(np.uint8), size, _BATCH)


def evaluate(operator: Ints, values: Ints, start: Ints, count: Ints) -> Ints:
    """Values of operator nodes; the arguments of node i are values[start[i] : start[i] + count[i]]."""
    node = np.repeat(np.arange(start.size), count)
    ranked = np.sort(node * 10 + values) % 10  # sorted inside each node
    median = (ranked[start + (count - 1) // 2] + ranked[start + count // 2]) // 2
    total = np.add.reduceat(values, start) % 10
    result: Ints = np.choose(operator, [ranked[start], ranked[start + count - 1], median, total])
    return result
