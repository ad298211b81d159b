"""What can be known of a cell without running it: whether it can run, its size, its work, its parameters.

Modules are built on torch's meta device, which checks every parameter's range and allocates nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from operator import attrgetter
from typing import Any

import torch

from bench.cell import Cell
from bench.device import why_unavailable
from bench.errors import Refused
from bench.model import BASELINE_METHOD, Model, attention_layers, build_model, build_task, count_parameters
from bench.training.precision import why_unsupported
from methods.registry import Attention, Mixer, Mode, Unsupported
from tasks.registry import Task

MIB = 2**20


@dataclass(frozen=True)
class Facts:
    """`verdict` is a (status, reason) that spares the attempt, or None for a cell that can be tried.

    `parameters_ratio` is to the baseline in the same model, None at a level without one.
    """

    verdict: tuple[str, str] | None = None
    degenerate: bool = False
    budget_name: str | None = None
    budget_value: float | None = None
    parameters: int = 0
    parameters_ratio: float | None = None
    flops: int = 0
    footprint_mib: float = 0.0
    work: float = 0.0


#: What the facts of a cell depend on: neither the draws of its seed nor how it is measured.
_depends_on = attrgetter(
    *(item.name for item in fields(Cell) if item.name not in ("seed", "measure", "match")),
)


def facts_of(cells: Iterable[Cell]) -> list[Facts]:
    """`facts` of each cell; cells that can only come to the same are looked at once."""
    known: dict[tuple[Any, ...], Facts] = {}
    found = []
    for cell in cells:
        key = _depends_on(cell)
        if key not in known:
            known[key] = facts(cell)
        found.append(known[key])
    return found


def facts(cell: Cell) -> Facts:
    """Look at a cell. Raises Refused for a parameter outside its range."""
    try:
        with torch.device("meta"):
            task = build_task(cell)
            subject = _subject(cell, task)
    except Unsupported as error:
        return Facts(verdict=("unsupported", str(error)))
    except ValueError as error:
        raise Refused(f"{error} (in {cell.describe()})") from error
    layers = [part for part in subject.modules() if isinstance(part, Attention)]
    attention, budgets = layers[0], {layer.budget_value() for layer in layers}
    length = attention.shape.seq_len  # with the front tokens of a model
    documents = task.documents if task else 1
    # sequences that the attention sees for one of the batch: documents, and the queries of a group
    pieces = documents * (cell.heads // cell.query_groups)
    parameters, flops = count_parameters(subject), _flops(cell, subject, cell.batch_size * pieces)
    baseline = _baseline_parameters(replace(cell, method=BASELINE_METHOD, seed=0)) if cell.model else None
    itemsize = getattr(torch, cell.hardware.dtype).itemsize
    mode: Mode = "train" if cell.mode == "train" else "forward"
    if cell.mode == "decode":
        return _decoding(cell, attention)
    return Facts(
        verdict=_refusal(cell, attention, task),
        degenerate=all(layer.degenerate(length) for layer in layers),
        budget_name=attention.budget,
        budget_value=budgets.pop() if len(budgets) == 1 else None,  # a schedule has no one value
        parameters=parameters,
        parameters_ratio=parameters / baseline if baseline else None,
        flops=flops,
        footprint_mib=max(
            layer.footprint_bytes(cell.piece_rows * pieces, length, mode, itemsize) / MIB for layer in layers
        ),
        work=float(flops) * (cell.train.steps + cell.train.pretrain_steps if cell.train else 10),
    )


def _decoding(cell: Cell, attention: Attention) -> Facts:
    """What is known of a step after seq_len tokens: each number of the state is read once."""
    able, held = attention.capabilities.decode, 0
    if able:
        held = cell.batch_size * attention.state_size(cell.seq_len)
    verdict = None if able else ("unsupported", f"mode=decode: {cell.method.name} has no token-by-token form")
    return Facts(
        verdict=_refusal(cell, attention, None) or verdict,
        degenerate=attention.degenerate(cell.seq_len),
        budget_name=attention.budget,
        budget_value=attention.budget_value(),
        parameters=count_parameters(attention),
        footprint_mib=held * getattr(torch, cell.hardware.dtype).itemsize / MIB,
        work=2.0 * held,
    )


def _subject(cell: Cell, task: Task | None) -> Attention | Mixer | Model:
    """The module that the cell measures."""
    if cell.level == "model":
        return build_model(cell, cell.method, task)
    attention = attention_layers(cell, cell.method, 1)[0]
    return Mixer(attention) if cell.level == "mixer" else attention


@lru_cache(maxsize=256)
def _baseline_parameters(cell: Cell) -> int:
    """Parameters of the model of a cell, once for all methods and seeds of a sweep."""
    with torch.device("meta"):
        return count_parameters(_subject(cell, build_task(cell)))


def _flops(cell: Cell, subject: Attention | Mixer | Model, sequences: int) -> int:
    """Operations of one measured call on so many sequences, by the methods' own formulas."""
    train = cell.mode == "train"
    if isinstance(subject, Model):
        return subject.encoder.flops(sequences, cell.seq_len, train=train)
    count = subject.train_flops if train else subject.flops
    return count(sequences, cell.seq_len)


def _refusal(cell: Cell, attention: Attention, task: Task | None) -> tuple[str, str] | None:
    """Why this machine or this method cannot run the cell, if so, or what data it lacks."""
    able, name = attention.capabilities, cell.method.name
    kind = cell.hardware.device.partition(":")[0]
    if cell.kv_heads is not None and able.shared_qk:
        return "unsupported", f"kv_heads={cell.kv_heads}: {name} makes each head's keys from its queries"
    if cell.hardware.dtype not in able.dtypes:
        return "unsupported", f"hardware.dtype={cell.hardware.dtype}: {name} takes {', '.join(able.dtypes)}"
    if able.devices and kind not in able.devices:
        return "unsupported", f"hardware.device={cell.hardware.device}: {name} runs on {', '.join(able.devices)}"
    if cell.mode == "train" and kind in able.forward_only:
        return "unsupported", f"mode=train: {name} has no backward on {kind}"
    missing = why_unavailable(cell.hardware.device)
    if cell.train and not missing:
        missing = why_unsupported(cell.hardware.device, cell.hardware.dtype)
    if task and not missing:
        missing = task.why_missing()
    return ("unsupported", missing) if missing else None
