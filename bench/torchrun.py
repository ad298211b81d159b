"""Under torchrun: the first process runs the command, the others follow it and train along.

    torchrun --nproc_per_node=2 bench/run.py task=listops_mini method=sdpa

The first process announces each training cell in torchrun's store; the others start a process of their own for it,
as isolated as the first one's. All else (other passes, records, tables) is the first process's alone.
"""

from __future__ import annotations

import itertools
import json
import os
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.isolate import Outcome

#: Both sides count what was announced, and so agree on names.
_count = itertools.count()

#: Statuses that say more of why a run broke than a broken connection does.
_TELLING = ("oom", "unsupported", "timeout")


def launched() -> bool:
    """Whether this process is one of several of torchrun's."""
    return "TORCHELASTIC_RUN_ID" in os.environ and world() > 1


def world() -> int:
    """Processes in all."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def local_world() -> int:
    """Processes on this machine."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def follows() -> bool:
    """Whether this process only trains along."""
    return launched() and int(os.environ["RANK"]) > 0


def announce(job: dict[str, Any] | None) -> str:
    """Hand a job to the processes that follow (None: there are no more); returns the name to meet under."""
    name = _name()
    _store().set(name, json.dumps(job))
    return name


def follow(isolation: str) -> None:
    """Do the jobs that are announced until there are no more."""
    from bench import isolate  # brings torch, for which the command line does not wait

    while True:
        name = _name()
        job = json.loads(_store().get(name))
        if job is None:
            return
        outcome = isolate.run({**job, "rendezvous": name}, timeout_s=job["timeout_s"], isolation=isolation)
        _store().set(f"{name}/{os.environ['RANK']}", json.dumps([outcome.status, outcome.reason]))


def explain(outcome: Outcome, name: str) -> None:
    """Give an outcome in error the reason of another process, when that one says why the run broke."""
    for rank in range(1, world()) if outcome.status == "error" else ():
        key = f"{name}/{rank}"
        try:
            _store().wait([key], timedelta(seconds=10))
        except Exception:  # it is still waiting for us, so it knows no more than we do
            continue
        status, reason = json.loads(_store().get(key))
        if status in _TELLING:
            outcome.status, outcome.reason = status, f"{reason} (process {rank})"


def _name() -> str:
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return f"attnbench/{restart}/{next(_count)}"


@cache
def _store() -> Any:
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(rendezvous("env://", int(os.environ["RANK"]), world()))
    store.set_timeout(timedelta(days=365))
    return store
