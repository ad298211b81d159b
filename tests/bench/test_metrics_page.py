"""docs/metrics.md explains every column that a run writes, and the docs name no column that there is not."""

import re
import tomllib
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from bench.columns import TABLES

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "metrics.md").read_text()
QUOTED = {word for quoted in re.findall(r"`([^`]+)`", PAGE) for word in re.split(r"\W+", quoted)}


@pytest.mark.parametrize("table", TABLES)
def test_every_column_is_explained(table):
    assert f"`{table}.csv`" in PAGE
    ends = {f"{name}{end}" for name in TABLES[table] for end in ("_low", "_high")}
    missing = [name for name in TABLES[table] if name not in QUOTED and name not in ends]
    assert not missing


def test_the_ends_of_intervals_are_explained_once_for_all():
    assert "`_low`, `_high` bound" in PAGE


def test_every_first_column_of_the_page_s_tables_is_a_column():
    """A column that was renamed or dropped does not live on in the page."""
    known = {name for columns in TABLES.values() for name in columns}
    tables = re.findall(r"\| column \| meaning \|\n\| --- \| --- \|\n((?:\|.*\n)+)", PAGE + "\n")
    assert len(tables) >= 6
    for line in "".join(tables).splitlines():
        named = re.findall(r"`(\w+)`", line.split("|")[1])
        assert named
        assert {name for name in named if not name.startswith("_")} <= known, line


def test_links_between_the_pages_lead_somewhere():
    pages = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "conf" / "README.md"]
    for page in pages:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[\w-]+)?\)", page.read_text()):
            if not target.startswith(("http://", "https://")):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text()
    named = set(re.findall(r"\]\((\w+\.md)\)", index))
    assert named == {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}


def test_the_citation_names_this_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = OmegaConf.load(ROOT / "CITATION.cff")
    assert str(citation.version) == project["version"]
    assert citation.license == project["license"]
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
