"""One measured cell at a time on a board (bench/device.py), whoever started it: two at once measure each other."""

from __future__ import annotations

import getpass
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm import tqdm

from bench.cell import Cell


@contextmanager
def turn(cell: Cell, board: str) -> Iterator[None]:
    """Wait until no other process of this user measures on the board. A training is not waited for.

    Who waits is next: it holds a second lock, which one that has just measured needs for its next turn. With one
    lock a sweep would take turn after turn, between two looks of one that waits.
    """
    if cell.table != "efficiency":
        yield
        return
    following, lock = FileLock(_path(f"{board}-next")), FileLock(_path(board))
    try:
        with following.acquire(timeout=0.1):
            lock.acquire(timeout=0.1)
    except Timeout:
        _say(cell.hardware.device)
        with following:
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@cache
def _say(device: str) -> None:
    """Once, since a sweep beside another waits for every second cell."""
    text = f"attnbench: another measurement runs on this machine's {device}; taking turns with it"
    tqdm.write(text, file=sys.stderr)


def _path(board: str) -> Path:
    name = "".join(letter if letter.isalnum() else "-" for letter in f"{getpass.getuser()}-{board}")
    return Path(tempfile.gettempdir()) / f"attnbench-{name}.lock"
