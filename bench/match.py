"""Budgets chosen so that methods cost alike: `match=flops:0.25` is a quarter of the baseline's operations.

Quantities: `flops` of the measured call, `state`, the numbers held when decoding, `parameters` of the model. The
budget that comes nearest (in ratio) is taken, of those that a method allows; the row says what was reached.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache

import torch

from bench.build import facts
from bench.cell import Cell, canonical
from bench.errors import Refused
from bench.model import BASELINE_METHOD, attention_layers
from bench.resolve import method_class
from methods.registry import Unsupported

#: Steps between two powers of two that are tried around the best one.
FINE = 8

QUANTITIES = ("flops", "state", "parameters")


def parse(text: str) -> tuple[str, float]:
    """(quantity, share) of `quantity:share`. Raises Refused."""
    quantity, _, share = text.partition(":")
    try:
        number = float(share)
    except ValueError:
        number = 0.0
    if quantity not in QUANTITIES or not 0 < number < math.inf:
        raise Refused(
            f"match={text}: expected flops, state or parameters, and a share of the baseline's: flops:0.25"
        )
    return quantity, number


def matched(cell: Cell) -> Cell:
    """The cell with the budget that its `match` asks for; as it is without one, or without a budget."""
    if cell.match is None:
        return cell
    quantity, wanted = parse(cell.match)
    name = method_class(cell.method.target).budget
    if name is None:
        return cell
    target = wanted * amount(replace(cell, method=BASELINE_METHOD), quantity)

    def off(budget: int) -> float:
        try:
            reached = amount(_with(cell, name, budget), quantity)
        except Refused:  # no value that the method allows
            return math.inf
        return abs(math.log(reached / target)) if reached > 0 else math.inf

    powers = [2**i for i in range(max(cell.seq_len, 2).bit_length() + 1)]
    best = _nearest(powers, off)
    around = {best * (FINE + i) // FINE for i in range(FINE)} | {
        best * (FINE + i) // (2 * FINE) for i in range(FINE)
    }
    best = _nearest(sorted(around - {0}), off)
    if off(best) == math.inf:
        raise Refused(f"match={cell.match}: no {name} of {cell.method.name} could be built for {cell.describe()}")
    return _with(cell, name, best)


def reached(cell: Cell) -> float | None:
    """The cell's quantity over the baseline's, None for a cell that matches nothing."""
    if cell.match is None:
        return None
    quantity, _ = parse(cell.match)
    return amount(cell, quantity) / amount(replace(cell, method=BASELINE_METHOD), quantity)


@lru_cache(maxsize=1024)
def amount(cell: Cell, quantity: str) -> float:
    """How much of the quantity a cell has. Raises Refused when it cannot be built, or has no such thing."""
    if quantity == "state":
        try:
            with torch.device("meta"):
                return float(attention_layers(cell, cell.method, 1)[0].state_size(cell.seq_len))
        except (Unsupported, ValueError) as error:
            raise Refused(f"match={cell.match}: {error}") from error
    found = facts(replace(cell, match=None))
    return float(found.flops if quantity == "flops" else found.parameters)


def _nearest(budgets: Iterable[int], off: Callable[[int], float]) -> int:
    return min(budgets, key=lambda budget: (off(budget), budget))


def _with(cell: Cell, name: str, budget: int) -> Cell:
    params = {**cell.method.params, name: budget}
    return replace(cell, method=replace(cell.method, params_json=canonical(params)))
