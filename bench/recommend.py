"""Which method to use, from measured rows: `python bench/recommend.py seq_len=16384 memory_gib=8 mode=train`.

The answer belongs to the reports: this is `python -m reports.recommend`, with its arguments and exit codes.
"""

import sys
from pathlib import Path

# see bench/run.py
sys.path[:1] = [str(Path(__file__).resolve().parents[1]), str(Path.cwd())]

from bench.handover import hand_over  # noqa: E402

if __name__ == "__main__":
    sys.exit(hand_over("reports.recommend", sys.argv[1:]))
