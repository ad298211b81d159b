"""A small part of the published sweep, run anew: the same cells, and they end alike. No times are compared."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench import compare

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = ROOT / "results" / "reference-quick"

#: Of the sweep `quick`: costs in both modes and errors, and a training with its costs.
PARTS = (
    ["method=nystromformer", "seq_len=1024", "task=none"],
    ["method=linformer", "task=copying", *(f"~sweep.grids.{name}" for name in ("forward", "train", "error"))],
)


@pytest.mark.timeout(300)
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
    assert int(said.split(" cells in both")[0].split()[-1]) >= 4, said
