"""Who runs which cell, when several workers share a results folder and nothing else.

A claim is a file beside the records that only one worker can create; its time is renewed while the cell runs.
A claim that is no longer renewed is a lost worker's, and the cell is free again: at once where the worker was a
process of this machine, after `LEASE_S` elsewhere. Times are the file system's own, so clocks need not agree.
Clocks may jump: a claim that looks old is watched for longer than a living worker leaves it alone, and a process
is known by its start since boot.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psutil

from bench.errors import explained

#: Seconds without renewal after which a worker of another machine counts as lost, and between two renewals.
LEASE_S = 120.0
BEAT_S = 15.0
#: Beats that a claim which looks old is watched for.
WATCHED = 1.5


@cache
def _place() -> str:
    """What two workers share that see each other's processes: host, boot and (in containers) process namespace."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):  # another system
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").stat().st_ino))
    return "/".join(parts)


def _born(pid: int) -> float:
    """When a process started, on a clock that nobody sets. Raises psutil.NoSuchProcess."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        return float(stat.rpartition(")")[2].split()[19])  # field 22, in ticks since boot
    except OSError:  # no such process, or another system
        return psutil.Process(pid).create_time()


class Claims:
    """The claims of one run, in a folder of their own."""

    def __init__(self, folder: Path, lease_s: float = LEASE_S, beat_s: float = BEAT_S) -> None:
        self.folder = folder
        self.lease_s, self.beat_s = lease_s, beat_s
        self.token = uuid.uuid4().hex
        self._seen: dict[tuple[str, float], float] = {}  # claims that looked old: (name, renewed) -> since when
        self._held: set[Path] = set()

    @contextmanager
    def taken(self, cell_id: str) -> Iterator[bool]:
        """Whether the cell is ours while the block runs; False where another worker has it."""
        path = self.folder / cell_id
        if not self._take(path):
            yield False
            return
        done = threading.Event()
        renewal = threading.Thread(target=self._renew, args=(path, done), daemon=True)
        renewal.start()
        try:
            yield True
        finally:
            done.set()
            renewal.join()
            self._give_up(path)

    def give_up(self) -> None:
        """Free the cells that we still hold: an interrupt may come while a claim is being made or given up."""
        for path in list(self._held):
            self._give_up(path)

    def holder(self, cell_id: str) -> str | None:
        """`host, process 123` of the worker that has the cell, None when it is free."""
        path = self.folder / cell_id
        owner = self._owner(path)
        return f"{owner.get('host')}, process {owner.get('pid')}" if owner and not self._lost(path) else None

    def outlived(self, cell_id: str) -> bool:
        """Wait until it is known whether the cell's worker lives, a lease at most; whether the cell is free."""
        path = self.folder / cell_id
        seen = self._mark(path)
        while self.holder(cell_id) is not None:
            if self._mark(path) not in (seen, None):
                return False  # renewed, or taken by another
            time.sleep(min(1.0, self.beat_s))
        return True

    def _give_up(self, path: Path) -> None:
        if self._owner(path).get("token") == self.token:  # else it was taken for lost
            path.unlink(missing_ok=True)
        self._held.discard(path)

    def _take(self, path: Path) -> bool:
        if self._create(path):
            return True
        judged = self._mark(path)
        if judged is None or not self._lost(path):
            return False
        grave = path.with_name(f".{path.name}.{self.token}")
        try:
            path.rename(grave)  # one of several that see the same loss gets it
        except FileNotFoundError:
            return False
        alive = self._mark(grave) != judged
        if alive:  # taken anew between our look and our move: give it back
            with contextlib.suppress(FileExistsError):
                os.link(grave, path)
        grave.unlink(missing_ok=True)
        return not alive and self._create(path)

    def _create(self, path: Path) -> bool:
        with explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        except OSError as error:
            with explained(path):
                raise error
        owner = {
            "host": socket.gethostname(),
            "place": _place(),
            "pid": os.getpid(),
            "born": _born(os.getpid()),
            "token": self.token,
        }
        self._held.add(path)
        try:
            with explained(path), os.fdopen(handle, "w") as file:
                json.dump(owner, file)
        except BaseException:  # an interrupt too: half a claim is nobody's
            path.unlink(missing_ok=True)
            raise
        return True

    def _renew(self, path: Path, done: threading.Event) -> None:
        while not done.wait(self.beat_s):
            with contextlib.suppress(OSError):  # a slow file system is no reason to stop measuring
                os.utime(path)

    def _owner(self, path: Path) -> dict[str, object]:
        try:
            owner = json.loads(path.read_text())
        except (OSError, ValueError):  # gone, or not yet written
            return {}
        return owner if isinstance(owner, dict) else {}

    def _lost(self, path: Path) -> bool:
        """Whether the worker that made this claim is gone. A claim that is gone is not lost but given up."""
        owner = self._owner(path)
        if owner.get("place") == _place():
            try:
                return _born(int(str(owner["pid"]))) != owner["born"]
            except psutil.NoSuchProcess:
                return True
        try:
            return self._now() - path.stat().st_mtime > self.lease_s and self._silent(path)
        except FileNotFoundError:
            return False

    def _silent(self, path: Path) -> bool:
        """Whether a claim that looks old is not renewed while we watch; all that are there are watched at once."""
        for other in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                self._seen.setdefault((other.name, other.stat().st_mtime), time.monotonic())
        renewed = path.stat().st_mtime
        since = self._seen.setdefault((path.name, renewed), time.monotonic())
        time.sleep(max(since + WATCHED * self.beat_s - time.monotonic(), 0.0))
        return path.stat().st_mtime == renewed

    def _mark(self, path: Path) -> tuple[object, float] | None:
        """What tells a claim from one made or renewed later; None without one."""
        try:
            return self._owner(path).get("token"), path.stat().st_mtime
        except FileNotFoundError:
            return None

    def _now(self) -> float:
        """The file system's time."""
        probe = self.folder / f".now.{self.token}"
        probe.touch()
        try:
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)
