"""attnbench: measure attention methods, one isolated process a cell."""

import sys
from pathlib import Path

# `python bench/run.py` puts bench/ first on the path, where our modules would shadow others' names;
# the working directory is there so that a method of your own can lie in it
sys.path[:1] = [str(Path(__file__).resolve().parents[1]), str(Path.cwd())]

from bench.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
