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
    return "" if done.returncode == 0 else last_line(done.stderr) or f"exit code {done.returncode}"


def last_line(said: str) -> str:
    """The last line that is not blank; empty where there is none."""
    return next((line for line in reversed(said.splitlines()) if line.strip()), "")
