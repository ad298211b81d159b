"""Compiled code is kept with the data cache, for one state of the sources, or nowhere."""

from __future__ import annotations

import resource
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.data import CacheWarning
from tasks.pathfinder import compiled


def doubled(n):
    return 2 * n


@pytest.fixture(autouse=True)
def _looked_for_anew() -> Iterator[None]:
    compiled._folder.cache_clear()
    yield
    compiled._folder.cache_clear()


def in_a_file_of_its_own(folder: Path) -> Callable[[int], int]:
    """A function whose compiled code numba could also keep beside its source."""
    (folder / "tripled.py").write_text("def tripled(n):\n    return 3 * n\n")
    space: dict[str, Callable[[int], int]] = {}
    code = compile((folder / "tripled.py").read_text(), str(folder / "tripled.py"), "exec")
    exec(code, space)
    return space["tripled"]


def kept(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.suffix in (".nbi", ".nbc")]


def test_it_is_kept_in_the_cache(cache: Path) -> None:
    assert compiled.compiled(doubled)(4) == 8
    assert {path.parents[2] for path in kept(cache)} == {cache / "compiled"}


def test_without_a_cache_nothing_is_kept_beside_the_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There numba looks at one file only, so that an edit of another would go on making the images of before."""
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("ATTNBENCH_CACHE", str(tmp_path / "file" / "cache"))
    assert compiled.compiled(in_a_file_of_its_own(tmp_path))(4) == 12
    assert kept(tmp_path) == []


def test_a_full_disk_costs_compiling_again(cache: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    function = compiled.compiled(doubled)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        with pytest.warns(CacheWarning, match="what was compiled cannot be kept .*ATTNBENCH_CACHE"):
            assert function(4) == 8
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compiled.compiled(doubled)(4) == 8
