"""Dask: a task a cell, on a local cluster or on one that is named. Extra `dask`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.jobs import Needs
from bench.schedulers.command import command, run

#: Times that a task is tried again when its worker dies.
RETRIES = 2


def results(folder: Path, kinds: Mapping[Needs, Sequence[str]], address: str | None) -> Iterator[tuple[str, str]]:
    """(cell id, complaint or nothing) as cells end. address: of a scheduler; None starts one on this machine.

    Cells on a GPU ask for the resource `GPU`, which workers offer by `dask worker --resources GPU=1`.
    """
    try:
        distributed = import_module("distributed")
    except ImportError as error:
        raise BenchError("dask is not installed: pip install distributed") from error
    with ExitStack() as opened:
        where: Any = address
        if address is None:  # one cell at a time: two at once would measure each other
            local = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": None}
            where = opened.enter_context(distributed.LocalCluster(**local))
        client = opened.enter_context(distributed.Client(where))
        pending: dict[Any, str] = {}
        for needs, cells in kinds.items():
            resources = {"GPU": 1} if needs.device != "cpu" and address is not None else {}
            for cell in cells:
                argv = command(folder, cell)
                future = client.submit(run, argv, key=f"cell-{cell}", retries=RETRIES, resources=resources)
                pending[future] = cell
        for future in distributed.as_completed(list(pending)):
            failed = future.exception()
            complaint = "" if failed is None else f"{type(failed).__name__}: {' '.join(str(failed).split())[:200]}"
            yield pending[future], complaint or future.result()
