"""What a cell's process has to say to the user, and how often it is shown."""

from pathlib import Path

import pytest

from bench.sweep import Steps
from bench.worker import work
from tests.bench.training.conftest import SMALL, make_cell

LISTOPS = [item for item in SMALL if "tokens" not in item and not item.startswith(("task=", "seq_len="))]


def test_a_cache_that_cannot_be_used_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process's own output goes to a log that is thrown away."""
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("ATTNBENCH_CACHE", str(tmp_path / "file" / "cache"))
    cell = make_cell("task=listops_mini", *LISTOPS)
    said: list[dict] = []
    work({"passes": ["train"], "cell": cell.content(), "memory_limit_mib": None}, said.append)
    assert said[-1] == {"event": "done"}
    (note,) = [message["text"] for message in said if message["event"] == "note"]
    assert note.startswith("listops: the data cache cannot be used (")
    assert note.endswith("Set ATTNBENCH_CACHE to a writable folder with free space to keep generated data.")


def test_a_note_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    noted: set[str] = set()
    for text in ("full", "full", "going on"):
        with Steps(False, noted) as steps:
            steps({"event": "note", "text": text})
    assert capsys.readouterr().err.splitlines() == ["attnbench: full", "attnbench: going on"]
