"""attnbench: measure attention methods, one isolated process a cell."""

import sys
from pathlib import Path

# `python bench/run.py` puts bench/ first on the path, where our modules would shadow others' names
sys.path[0] = str(Path(__file__).resolve().parents[1])

from bench.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
