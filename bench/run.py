"""attnbench: measure attention methods, one isolated process a cell.

One cell
    python bench/run.py method=performer seq_len=16384
    python bench/run.py method=longformer method.window=512 seq_len=8192 mode=train causal=true
    python bench/run.py method=linformer task=listops_mini seed=1
    python bench/run.py method=custom method._target_=my_module.MyAttention +method.temperature=0.5

    prints what was found and where its rows are:

    method              performer (features=256)
    shape               seq_len 16384, batch 1, heads 8 x 64
    measured            core forward on cpu, float32, 2 threads
    status              ok
    backend             eager
    time                255 [245, 266] ms (6 rounds, cpu 512 ms)
    throughput          64,223 [61,586, 66,816] tokens/s
    speedup             18.4 [17.7, 19.3] over sdpa (sdpa:flash, 4,749 [4,446, 4,955] ms)
    peak memory         37.8 MiB beyond 96.0 of inputs and 0.0625 of parameters (high_water)
    operations          17.3 GFLOP, 67.9 GFLOP/s
    error, |q|,|k| x 1  6.36 of the output
    rows         results/adhoc/*.csv, record results/adhoc/cells/4ec517348355d086.json

Many cells
    python bench/run.py sweep=quick                        a preset: plan, resume, skip what cannot succeed
    python bench/run.py sweep=quick method=performer       the part of it that is about one method
    python bench/run.py -m method=sdpa,full seq_len=512,1024 run=mine      any product, by Hydra
    python -m reports results/quick                        the report

What there is to set
    python bench/run.py --help           groups, keys, defaults
    python bench/run.py --cfg job        the configuration that a command line comes to
    conf/README.md                       what each key means

Exit codes
    0    every cell is there (a sweep), or the cell is ok
    1    a cell ended in an error (a sweep), or the cell is not ok; or the results could not be written
    2    the command line was refused: nothing was run
    130  interrupted: finished cells are kept, the same command goes on
"""

import sys
from pathlib import Path

# `python bench/run.py` puts bench/ first on the path, where our modules would shadow others' names;
# the working directory is there so that a method of your own can lie in it
sys.path[:1] = [str(Path(__file__).resolve().parents[1]), str(Path.cwd())]

from bench.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
