"""One measured cell at a time on a board (bench/device.py), whoever started it: two at once measure each other."""

from __future__ import annotations

import getpass
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm import tqdm

from bench.cell import Cell


@contextmanager
def turn(cell: Cell, board: str) -> Iterator[None]:
    """Wait until no other process of this user measures on the board. A training is not waited for."""
    if cell.table != "efficiency":
        yield
        return
    lock = FileLock(_path(board))
    try:
        lock.acquire(timeout=0.1)
    except Timeout:
        tqdm.write(
            f"attnbench: another measurement runs on this machine's {cell.hardware.device}; waiting for it to end",
            file=sys.stderr,
        )
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _path(board: str) -> Path:
    name = "".join(letter if letter.isalnum() else "-" for letter in f"{getpass.getuser()}-{board}")
    return Path(tempfile.gettempdir()) / f"attnbench-{name}.lock"
