from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data cache for every test."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("ATTNBENCH_CACHE", str(folder))
    return folder
