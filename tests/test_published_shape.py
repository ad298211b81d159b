"""A small part of the published sweep, run anew: the same cells, and they end alike. No times are compared."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench import compare

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = ROOT / "results" / "reference-quick"

#: Of the sweep `quick`: a method's costs in both modes and its errors, and the cost of a model's training step.
OTHERS = ("forward", "train", "error", "copying")
PARTS = (
    ["method=nystromformer", "seq_len=1024", "task=none"],
    ["method=linformer", "task=copying", *(f"~sweep.grids.{name}" for name in OTHERS)],
)


@pytest.mark.long
@pytest.mark.timeout(900)  # ten seconds on a machine that is free
def test_a_part_of_the_published_run_has_its_shape(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for part in PARTS:
        line = [
            "sweep=quick",
            *part,
            "measure.budget_s=0",
            "hardware.threads=2",
            f"results_dir={tmp_path}",
            "run=now",
        ]
        ran = subprocess.run([sys.executable, "bench/run.py", *line], cwd=ROOT, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout + ran.stderr
    code = compare.main([str(PUBLISHED), str(tmp_path / "now"), "--shape", "--part"])
    said = capfd.readouterr().out
    assert code == 0, said
    assert "0 gone, 0 new" in said
    assert int(said.split(" rows in both")[0].split()[-1]) >= 3 + 6 * 3, said  # costs, and errors at three norms
