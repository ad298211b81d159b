"""Committed rows give the committed tables."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic_run import Tables, cost

from reports.publish import PUBLISHED, RESULTS, differences, main, published

REPOSITORY = Path(__file__).parents[2]
NAMES = published(REPOSITORY)


@pytest.mark.skipif(bool(NAMES), reason="there is one: see the test below")
def test_no_report_is_published_yet() -> None:
    assert not list((REPOSITORY / PUBLISHED).glob("*/index.html"))
    pytest.skip(f"no folder in {PUBLISHED}, so there are no committed tables to check")


@pytest.mark.parametrize("name", NAMES)
def test_committed_rows_give_the_committed_tables(name: str) -> None:
    assert differences(REPOSITORY, name) == []
    tables = list((REPOSITORY / PUBLISHED / name / "tables").glob("*.csv"))
    assert len(tables) > 5
    page = (REPOSITORY / PUBLISHED / name / "index.html").read_text()
    assert name in page


@pytest.mark.parametrize("name", NAMES)
def test_what_is_committed_is_small_and_names_no_path_of_a_machine(name: str) -> None:
    files = [path for folder in (PUBLISHED, RESULTS) for path in (REPOSITORY / folder / name).rglob("*")]
    kept = [path for path in files if path.is_file() and path.suffix != ".png" and "cells" not in path.parts]
    assert sum(path.stat().st_size for path in kept) < 40 * 2**20
    for path in kept:
        if path.suffix in (".csv", ".html", ".md", ".tex"):
            assert str(Path.home()) + "/" not in path.read_text(), path


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one published report, made by the command."""
    tables = Tables()
    tables.rows["efficiency"] = [cost(method, 512) for method in ("sdpa", "performer")]
    tables.write(tmp_path / RESULTS / "reference-a")
    monkeypatch.chdir(tmp_path)
    assert main(["reference-a"]) == 0
    return tmp_path


def test_the_check_passes_on_what_the_command_wrote(repository: Path) -> None:
    assert published(repository) == ["reference-a"]
    assert differences(repository, "reference-a") == []
    assert main(["--check"]) == 0
    page = (repository / PUBLISHED / "reference-a" / "index.html").read_text()
    assert "python -m reports results/reference-a" in page
    assert str(repository) not in page


def test_the_check_sees_rows_that_changed_and_tables_that_were_edited(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = repository / PUBLISHED / "reference-a" / "tables"
    (path / "time-forward.md").write_text("mine is faster\n")
    (path / "speedup-forward.tex").unlink()
    (path / "extra.csv").write_text("a\n")
    (repository / PUBLISHED / "reference-a" / "index.html").unlink()
    assert main(["--check"]) == 1
    said = capsys.readouterr().out
    for text in ("time-forward.md: differs", "speedup-forward.tex: not committed", "extra.csv: no such table"):
        assert text in said
    assert "index.html: missing" in said
    assert main([]) == 0
    assert main(["--check"]) == 0
    rows = repository / RESULTS / "reference-a" / "efficiency.csv"
    rows.write_text(rows.read_text().replace(",1.7,", ",1.71,"))
    assert ",1.71," in rows.read_text()
    assert any("time-forward.csv: differs" in line for line in differences(repository, "reference-a"))


def test_a_report_without_its_rows_is_refused(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (repository / RESULTS / "reference-a" / "efficiency.csv").unlink()
    assert main(["--check"]) == 2
    assert "results/reference-a: has no CSV files" in capsys.readouterr().err


def test_nothing_to_publish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([]) == 2
    assert "nothing in reports/published" in capsys.readouterr().err
