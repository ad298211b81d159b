"""Inside a cell's process: set its limits, run the passes asked for, send what they found.

A job is a JSON object: `passes`, `cell` (its content), `data_dir`, `memory_limit_mib`; for training also
`checkpoint` (path, every_s, identity) and `rendezvous`, the name under which several processes meet. Messages are
JSON objects with an `event`: `result` (pass, value, seconds), `progress`, `note` (text), `failed` (status, reason,
traceback), `done`.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, TextIO

import torch

from bench import environment
from bench.case import build_case
from bench.cell import Cell
from bench.device import board, clock, why_unavailable
from bench.measure import ceiling, energy, error, latency, memory
from bench.measure.guard import unchanged
from bench.model import BASELINE_METHOD
from bench.process import die_with_parent
from bench.training import distributed, loop
from bench.training.checkpoint import Checkpoints
from methods.registry import Unsupported
from tasks.registry import CacheWarning, MissingData

Job = dict[str, Any]
Send = Callable[[dict[str, Any]], None]


def work(job: Job, send: Send) -> None:
    """Run the job's passes in order; every way it can fail becomes one `failed` message."""
    try:
        cell = replace(Cell.from_content(job["cell"]), data_dir=job.get("data_dir"))
        limit_memory(job["memory_limit_mib"])
        torch.set_num_threads(cell.hardware.threads)
        missing = why_unavailable(cell.hardware.device)
        if missing:
            raise Unsupported(missing)
        for name in job["passes"]:
            started = time.perf_counter()
            with unchanged(), cache_warnings(send):
                value = PASSES[name](cell, job, send)
            send({"event": "result", "pass": name, "value": value, "seconds": time.perf_counter() - started})
        send({"event": "done"})
    except BaseException as failure:
        status, reason = classify(failure)
        send({"event": "failed", "status": status, "reason": reason, "traceback": traceback.format_exc()})


@contextmanager
def cache_warnings(send: Send) -> Iterator[None]:
    """Send what the data cache warns of as notes: a log that no one reads would swallow it."""
    with warnings.catch_warnings():
        to_log = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, CacheWarning):
                send({"event": "note", "text": str(message)})
            else:
                to_log(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        yield


def _latency(cell: Cell, job: Job, send: Send) -> dict[str, Any]:
    now = clock(cell.hardware.device)
    method = build_case(cell, cell.method)
    baseline = build_case(cell, BASELINE_METHOD, method.inputs)
    return latency.measure(method, baseline, cell.measure, cell.hardware.threads, now)


def _energy(cell: Cell, job: Job, send: Send) -> dict[str, Any]:
    method = build_case(cell, cell.method)
    baseline = build_case(cell, BASELINE_METHOD, method.inputs)
    return energy.measure(method, baseline, cell.hardware.device, clock(cell.hardware.device))


def _memory(cell: Cell, job: Job, send: Send) -> dict[str, Any]:
    return memory.measure(build_case(cell, cell.method), cell.hardware.device, cell.measure.memory_way)


def _steps(send: Send) -> loop.Progress:
    """Progress of a training run as messages."""
    return lambda step, steps, note: send({"event": "progress", "step": step, "steps": steps, "note": note})


def _train(cell: Cell, job: Job, send: Send) -> dict[str, Any]:
    def note(text: str) -> None:
        send({"event": "note", "text": text})

    hardware = cell.hardware
    with distributed.joined(hardware.processes, hardware.device, job.get("rendezvous", "")) as group:
        checkpoints = Checkpoints(**job.get("checkpoint", {}), note=note, group=group)
        return loop.train(cell, _steps(send), checkpoints, group)


PASSES: dict[str, Callable[[Cell, Job, Send], dict[str, Any]]] = {
    "latency": _latency,
    "memory": _memory,
    "energy": _energy,
    "error": lambda cell, job, send: error.measure(cell, _steps(send)),
    "train": _train,
    "ceiling": lambda cell, job, send: dict(
        ceiling.measure(cell.hardware.device, cell.hardware.dtype, clock(cell.hardware.device))
    ),
    "machine": lambda cell, job, send: {
        "environment": environment.capture(cell.hardware.device),
        "board": board(cell.hardware.device),
    },
}


def classify(failure: BaseException) -> tuple[str, str]:
    """The status of an exception, and its message in one line."""
    text = " ".join(str(failure).split()) or type(failure).__name__
    if isinstance(failure, Unsupported | MissingData):
        return "unsupported", text
    if isinstance(failure, loop.Diverged):
        return "diverged", text
    signs = ("can't allocate memory", "out of memory", "Unable to allocate", "Cannot allocate memory")
    if isinstance(failure, MemoryError | torch.OutOfMemoryError) or any(sign in text for sign in signs):
        return "oom", text[:300]
    return "error", f"{type(failure).__name__}: {text}"[:500]


def limit_memory(limit_mib: float | None) -> None:
    """Let this process allocate at most `limit_mib` more; running out is then an exception, not a kill."""
    if limit_mib is None or sys.platform != "linux":
        return
    import resource

    status = Path("/proc/self/status").read_text()
    used_kib = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmData:")))
    limit = int(used_kib * 1024 + limit_mib * 2**20)
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def detach(log: str, parent: int | None = None) -> None:
    """Own process group, so that a kill takes all; print to a log; die with the parent."""
    if hasattr(os, "setsid") and os.getsid(0) != os.getpid():
        os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    sys.stdout.flush()
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    die_with_parent(parent)


def let_server_end() -> None:
    """Let the fork server end with the harness, and this process with the server, though a cell is running.

    Multiprocessing hands each child the line by which the server knows that somebody still wants it; held here, a
    harness that is killed would leave both behind until the cell is done.
    """
    server: Any = forkserver._forkserver
    os.close(server._forkserver_alive_fd)
    server._forkserver_alive_fd = None


def forked(connection: Any, job: dict[str, Any]) -> None:
    """Entry of a process that the fork server made; messages go through a multiprocessing connection."""
    detach(job["log"])
    let_server_end()
    work(job, lambda message: connection.send_bytes(json.dumps(message).encode()))
    connection.close()


def main() -> None:
    """Entry of `python -m bench.worker`: the job on standard input, messages as lines on standard output."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    job = json.load(sys.stdin)
    detach(job["log"], job["parent"])  # which may have been killed while we imported torch

    def send(message: dict[str, Any]) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    work(job, send)


if __name__ == "__main__":
    main()
