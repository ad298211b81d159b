"""Commands whose answers are read from tables: only reports do that, and the harness does not import them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def hand_over(module: str, arguments: Sequence[str]) -> int:
    """Run `python -m MODULE ARGUMENTS` in a process of its own, wherever the user is; returns its exit code."""
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, check=False).returncode
