"""The life of a process."""

from __future__ import annotations

import signal
import sys


def die_with_parent() -> None:
    """Let the system kill this process when the one that started it is gone; Linux only."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
