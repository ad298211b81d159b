"""Grouped queries: several query heads share one head of keys and values (Ainslie et al. 2023; one head of them
for all queries is multi-query attention, Shazeer 2019).

A method is built with the heads of the keys, `Shape.heads = G`, and knows nothing of the R query heads that share
each. What it draws or learns a head, a group shares too, so that a state of keys serves the group's queries.
Query head i belongs to group i // R, as in torch's `enable_gqa`.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def grouped(attention: Callable[[Tensor, Tensor, Tensor], Tensor], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """A method's `forward` on q `[B, G R, N, D]` and k, v `[B, G, N, D]` -> `[B, G R, N, D]`."""
    out = attention(*groups_as_batch(q, k, v))
    return out.view(k.shape[0], -1, *out.shape[1:]).transpose(1, 2).flatten(1, 2)


def groups_as_batch(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q `[B, G R, N, D]`, k and v `[B, G, N, D]` -> three of `[B R, G, N, D]`.

    A group's queries become rows of the batch. Keys and values are repeated for them, in memory only where B > 1.
    """
    rows = _by_group(q, k.shape[1]).transpose(1, 2)
    keys, values = (x[:, None].expand(-1, rows.shape[1], -1, -1, -1) for x in (k, v))
    return rows.flatten(0, 1), keys.flatten(0, 1), values.flatten(0, 1)


def queries_as_tokens(q: Tensor, groups: int) -> Tensor:
    """One token's queries `[B, G R, 1, D]` -> `[B, G, R, D]`, for `Attention.step`, which takes several."""
    return _by_group(q, groups).flatten(2, 3)


def _by_group(q: Tensor, groups: int) -> Tensor:
    """`[B, G R, N, D]` -> `[B, G, R, N, D]`."""
    return q.view(q.shape[0], groups, -1, *q.shape[2:])
