"""The life of a process."""

from __future__ import annotations

import os
import signal
import sys


def die_with_parent(parent: int | None = None) -> None:
    """Let the system kill this process when the one that started it is gone; Linux only.

    parent: the id of that process, where it may be gone already.
    """
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if parent is not None and os.getppid() != parent:
            os._exit(1)


def end_as_if_interrupted() -> None:
    """Take a scheduler's SIGTERM like Ctrl-C: what is finished is kept, the rest is left for the same command."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
