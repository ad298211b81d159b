"""Ours and third-party implementations of the same mechanism, side by side."""

from __future__ import annotations

import pandas as pd

from reports.load import Run
from reports.peers import HEADER, MODES, Line, blocks, described, grouped, third_party
from reports.tables.base import Cell, Look, Table
from reports.text import DASH, length, plural

_CAPTION = (
    "Time over that of SDPA in the same rounds, below 1 is faster, with 95 % intervals; memory: peak beyond "
    "inputs and parameters. The last two columns: our time over that of the fastest third-party code of the "
    "group, forward and in training, below 1 where ours is faster. "
    "How each deviates from its paper: docs/fidelity.md"
)


def peers_tables(run: Run) -> list[Table]:
    """A table for each environment, thread count and length where third-party code was measured."""
    tables: list[Table] = []
    if not any(third_party(method) for method in run.methods):
        return tables
    for (env, threads, seq_len), rows in blocks(run).items():
        groups = {name: lines for name, lines in grouped(rows).items() if any(line.third_party for line in lines)}
        if not groups:
            continue
        where = f"{length(seq_len)} tokens, {plural(threads, 'thread')}"
        place = f", environment {env}" if len(run.env_ids) > 1 else ""
        tables.append(
            Table(
                f"peers-{env}-{threads}-{seq_len}",
                f"Ours and third-party code: {where}{place}",
                _CAPTION,
                ("mechanism", "code", *HEADER[1:]),
                tuple(_row(name, line, lines) for name, lines in groups.items() for line in lines),
                pd.DataFrame(
                    [facts for name, lines in groups.items() for line in lines for facts in _facts(name, line)]
                ),
            )
        )
    return tables


def _row(group: str, line: Line, lines: list[Line]) -> tuple[Cell, ...]:
    _, *texts = described(line, lines)
    cells = [Cell(text or DASH, _look(text), note=_reason(line, text)) for text in texts]
    return (Cell(group), Cell(f"{line.method} (third party)" if line.third_party else line.method), *cells)


def _look(text: str) -> Look:
    return "empty" if text in ("", DASH) else "number" if text[0].isdigit() else "failure"


def _reason(line: Line, text: str) -> str:
    return next((figure.reason for figure in line.figures.values() if figure.status == text), "")


def _facts(group: str, line: Line) -> list[dict[str, object]]:
    return [
        {
            "mechanism": group,
            "method": line.method,
            "third_party": line.third_party,
            "mode": mode,
            **vars(line.figures[mode]),
        }
        for mode in MODES
        if mode in line.figures
    ]
