from __future__ import annotations

from pathlib import Path

import pytest

from tests.tasks.folders import build_all


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with every set that tasks read, small."""
    return str(build_all(tmp_path_factory.mktemp("data")))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data cache for every test."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("ATTNBENCH_CACHE", str(folder))
    return folder
