"""The page on diagnostics says what runs: each of its blocks, in a folder of its own."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "diagnostics.md"
BLOCKS = re.findall(r"## ([^\n]+)\n.*?```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_every_section_has_a_block():
    assert len(BLOCKS) == PAGE.read_text(encoding="utf-8").count("\n## ") == 4


@pytest.mark.parametrize("code", [code for _, code in BLOCKS], ids=[title for title, _ in BLOCKS])
def test_a_block_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(PAGE), "exec"), {})
    assert "spectrum.png" not in code or {path.name for path in tmp_path.iterdir()} == {"spectrum.png", "qk.pt"}
