"""The command that a job runs, and what came of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ONE = Path(__file__).parents[1] / "one.py"


def command(folder: Path, *arguments: str) -> list[str]:
    """`python bench/one.py FOLDER ...` with the interpreter and paths of this process, which workers must have."""
    return [sys.executable, str(ONE), str(folder.resolve()), *arguments]


def run(argv: list[str]) -> str:
    """Run a job's command where a worker calls us; its last line of complaint, or nothing.

    It dies with the worker: a scheduler that tries the task again elsewhere would find the cell taken.
    """
    done = subprocess.run([*argv, "--die-with-parent"], capture_output=True, text=True, check=False)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return "" if done.returncode == 0 else lines[-1] if lines else f"exit code {done.returncode}"
