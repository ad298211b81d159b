"""Which method to use, from measured rows: `python bench/recommend.py seq_len=16384 memory_gib=8 mode=train`.

The answer belongs to the reports, which the harness does not import: this runs `python -m reports.recommend`, with
the same arguments and exit codes, in a process of its own.
"""

import os
import subprocess
import sys
from pathlib import Path

if __name__ == "__main__":
    root = str(Path(__file__).resolve().parents[1])
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "reports.recommend", *sys.argv[1:]]
    sys.exit(subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}).returncode)
