"""A process of its own for every job, with limits; whatever happens to it, the parent gets an outcome.

Two ways to start one: a fork server that has torch imported already (some 0.05 s a process), and a plain
`python -m bench.worker` (seconds, but it works everywhere: on Windows, and inside the workers of launchers).
"""

from __future__ import annotations

import json
import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from methods.registry import METHODS

ROOT = Path(__file__).resolve().parents[1]

#: Imported by the fork server; imports only, since a process that has run a threaded operation cannot fork.
PRELOAD = [
    "torch",
    "torch.utils.benchmark",
    "hydra",
    "bench.worker",
    "bench.cli",
    *(target.rpartition(".")[0] for target in METHODS.values()),
]

SAFE_PATH = "PYTHONSAFEPATH"
"""Without it another harness in the working directory is imported before this one, and measured in its place."""

STARTS = 3
"""How often a cell's process is started that never began, since the fork server was killed meanwhile."""

GRACE_S = 5.0
"""How long a process that has closed its channel may take to exit."""


@dataclass
class Outcome:
    """What a job came to. `results` holds the value of every pass that finished, whatever the status."""

    status: str = "error"
    reason: str = ""
    traceback: str = ""
    results: dict[str, Any] = field(default_factory=dict)
    measured_s: float = 0.0
    elapsed_s: float = 0.0


class Child(Protocol):
    """A running process and its messages."""

    pid: int

    def messages(self) -> Iterator[bytes]:
        """The messages, one at a time, until the channel closes."""

    def wait(self, timeout: float) -> int | None:
        """The exit code (negative for a signal), or None if it has not exited in time."""


@contextmanager
def safe_path() -> Iterator[None]:
    """`SAFE_PATH` is set for what starts in this block; what the user's own commands inherit stays as it was."""
    before = os.environ.get(SAFE_PATH)
    os.environ[SAFE_PATH] = "1"
    try:
        yield
    finally:
        os.environ.pop(SAFE_PATH)
        if before is not None:
            os.environ[SAFE_PATH] = before


class Forked:
    """A child of the fork server."""

    def __init__(self, job: dict[str, Any]) -> None:
        from bench import worker

        # the server does not inherit sys.path, and has to import what it preloads
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(path for path in paths if path))
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        for left in reversed(range(STARTS)):
            self._reader, writer = context.Pipe(duplex=False)
            self._process = context.Process(target=worker.forked, args=(writer, job))
            try:
                with safe_path():
                    self._process.start()
                break
            except (EOFError, ConnectionError) as error:  # the server was killed: the next start makes another
                if not left:
                    raise ChildProcessError(f"the server that forks cells was killed {STARTS} times") from error
                time.sleep(0.1)  # until its death can be seen
            finally:
                writer.close()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def messages(self) -> Iterator[bytes]:
        """See `Child`."""
        while True:
            try:
                yield self._reader.recv_bytes()
            except (EOFError, OSError):
                return

    def wait(self, timeout: float) -> int | None:
        """See `Child`."""
        self._process.join(timeout)
        return self._process.exitcode


class Spawned:
    """A fresh interpreter."""

    def __init__(self, job: dict[str, Any]) -> None:
        # what the parent can import, the child can: a user's method may lie anywhere
        paths = os.pathsep.join(path for path in sys.path if path)
        environment = {**os.environ, SAFE_PATH: "1", "PYTHONPATH": paths}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it was killed already, which its exit code will tell
            self._process.stdin.write(json.dumps({**job, "parent": os.getpid()}).encode())
            self._process.stdin.close()
        self.pid = self._process.pid

    def messages(self) -> Iterator[bytes]:
        """See `Child`."""
        assert self._process.stdout is not None
        yield from self._process.stdout

    def wait(self, timeout: float) -> int | None:
        """See `Child`."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None


def choose(isolation: str) -> str:
    """The way that `auto` stands for: the fork server, unless this is Windows or itself a worker of something."""
    if isolation != "auto":
        return isolation
    nested = multiprocessing.parent_process() is not None or multiprocessing.current_process().daemon
    has_server = "forkserver" in multiprocessing.get_all_start_methods()
    return "forkserver" if has_server and not nested else "subprocess"


def run(
    job: dict[str, Any],
    *,
    timeout_s: float,
    isolation: str = "auto",
    on_progress: Callable[[dict[str, Any]], None] = lambda message: None,
) -> Outcome:
    """Run one job in its own process and say what became of it. Ctrl-C kills the process and passes on."""
    started = time.perf_counter()
    start: type[Forked] | type[Spawned] = Forked if choose(isolation) == "forkserver" else Spawned
    with tempfile.TemporaryDirectory(prefix="attnbench-") as folder:
        log = Path(folder) / "log"
        try:
            child: Child = start({**job, "log": str(log)})
        except ChildProcessError as error:
            return Outcome(reason=str(error), elapsed_s=time.perf_counter() - started)
        outcome = Outcome()
        try:
            _listen(child, outcome, started + timeout_s, timeout_s, on_progress)
        finally:
            _kill(child)
        if outcome.status == "error" and not outcome.reason:
            outcome.reason = _obituary(child.wait(GRACE_S), log)
    outcome.elapsed_s = time.perf_counter() - started
    return outcome


def _listen(
    child: Child,
    outcome: Outcome,
    deadline: float,
    timeout_s: float,
    on_progress: Callable[[dict[str, Any]], None],
) -> None:
    """Take messages until the channel closes or time is up; the wait blocks, since the child needs the CPU."""
    inbox: queue.Queue[bytes | None] = queue.Queue()

    def read() -> None:
        for raw in child.messages():
            inbox.put(raw)
        inbox.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            raw = inbox.get(timeout=max(deadline - time.perf_counter(), 0.0))
        except queue.Empty:
            outcome.status, outcome.reason = "timeout", f"not done after {timeout_s:g} s (timeout_s)"
            return
        if raw is None:
            return
        message = _parse(raw)
        match message.get("event"):
            case "result":
                outcome.results[message["pass"]] = message["value"]
                outcome.measured_s += message["seconds"]
            case "progress" | "note":
                on_progress(message)
            case "failed":
                outcome.status, outcome.reason = message["status"], message["reason"]
                outcome.traceback = message["traceback"]
                return
            case "done":
                outcome.status = "ok"
                return


def _parse(raw: bytes) -> dict[str, Any]:
    """A message; anything that is none (a library writing to the channel) is dropped."""
    try:
        message = json.loads(raw)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}


def _kill(child: Child) -> None:
    """Make sure that nothing of the child is left: its own children too, which may outlive one that is done."""
    child.wait(0.2)
    for target in (os.killpg, os.kill) if hasattr(os, "killpg") else (os.kill,):
        try:
            target(child.pid, signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
        except (ProcessLookupError, PermissionError):  # gone, all of them
            continue
    child.wait(GRACE_S)


def _obituary(code: int | None, log: Path) -> str:
    """Why a child ended without a word: its exit code, and the last line that it printed."""
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    last = f"; last output: {lines[-1][:200]}" if lines else ""
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        hint = " (by hand, or by the system when memory ran out)" if name == "SIGKILL" else ""
        return f"the cell's process was killed by {name}{hint}{last}"
    return f"the cell's process ended with code {code} before it was done{last}"
