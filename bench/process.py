"""The life of a process."""

from __future__ import annotations

import signal
import sys


def die_with_parent() -> None:
    """Let the system kill this process when the one that started it is gone; Linux only."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def end_as_if_interrupted() -> None:
    """Take a scheduler's SIGTERM like Ctrl-C: what is finished is kept, the rest is left for the same command."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
