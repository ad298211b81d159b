"""Bad input: one line that names the key, the value and what is allowed, before anything runs."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench.cli import check
from bench.errors import Refused

ROOT = Path(__file__).resolve().parents[2]

BAD = {
    "method=performr": "unknown method .did you mean 'performer'.*longformer",
    "task=listop": "unknown task .did you mean 'listops'",
    "seqlen=3": "no key 'seqlen' .did you mean 'seq_len'",
    "hardware.dtyp=float32": "hardware .cpu. has no key 'dtyp' .did you mean 'dtype'",
    "hardware.dtype=float8": "expected one of .float64, float32, bfloat16, float16",
    "seq_len=0": "seq_len=0: expected a number >= 1",
    "seq_len=-5": "seq_len=-5: expected a number >= 1",
    "seq_len=long": "'long' of type 'str' could not be converted to Integer",
    "head_dim=0": "head_dim=0: expected a number >= 1",
    "level=modl": "expected one of .core, mixer, model",
    "method=longformer method.window=0": "method.window=0: expected an even number >= 2",
    "method=longformer method.window=wide": "method.window='wide': expected int",
    "method=longformer method.features=64": "has no key 'features'; keys: .*global_tokens, window",
    "method=linformer method.sharing=heads": "method.sharing='heads': expected one of",
    "method=custom": "method._target_: missing",
    "method=custom method._target_=nowhere.Method": "importing nowhere failed",
    "method=custom method._target_=tests.bench.raises_at_import.Method": "importing .* failed: ZeroDivisionError",
    "method=custom method._target_=bench.cell.Cell": "not a subclass of",
    "measure.passes=[]": "expected at least one of latency",
    "measure.passes=[train]": "train needs a task",
    "measure.qk_norms=[-1]": "expected at least one number > 0",
    "measure.max_rounds=3": "expected at least min_rounds",
    "task=copying level=core": "a task needs a model",
    "task=mqar seq_len=3": "seq_len",
    "level=mixer measure=error": "error is defined at level=core",
    "hardware.threads=0": "hardware.threads=0: expected a number >= 1",
    "performer": "not of the form key=value",
    "sweep=quick method=nothing": "unknown method",
    "method=sdpa,full": "method=sdpa,full: several values; with -m",
    "sweep=smoke seq_len=512,1024": "seq_len=512,1024: several values; with -m",
    "-m method=sdpa seq_len=0,64": "seq_len=0: expected",
}


@pytest.mark.parametrize("line", BAD, ids=str)
def test_refused_in_one_line(line):
    with pytest.raises(Refused, match=BAD[line]) as caught:
        check(line.split())
    assert "\n" not in str(caught.value)


def test_good_lines_pass():
    for line in ("", "method=performer seq_len=16384", "sweep=smoke", "-m method=sdpa,full seq_len=64,128"):
        check(line.split())


def test_the_command_exits_with_2_and_one_line():
    ran = subprocess.run(
        [sys.executable, "bench/run.py", "method=longformer", "method.window=0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr.startswith("attnbench: method.window=0: expected an even number >= 2")
    assert ran.stderr.count("\n") == 1
