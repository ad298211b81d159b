"""The page: one HTML file with everything in it, and the files that it links to."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from reports import header
from reports.charts.embed import chart_text, rows_texts
from reports.figures import Drawn, drawing
from reports.filters import filters
from reports.load import Run
from reports.reproduce import UNTOLD
from reports.sections import Section, sections
from reports.style import use_theme
from reports.tables import Table
from reports.tables.html import rows_html

_HERE = Path(__file__).parent
#: Rows of a table that stand in the page, nobody reads more there; fewer where all tables together have more
#: than so many fields, for a browser lays out each.
_MOST_ROWS = 200
_MOST_FIELDS = 10_000
_LEAST_ROWS = 12
#: Marks up to which all charts of a page are drawn at once, so that nothing moves when it is scrolled to.
_MOST_MARKS = 20_000
#: The script of the page in the order of its parts: each names what those after it use.
_SCRIPT = (
    *("data", "text", "elements", "filters", "scales", "tip", "rows", "panel", "chart", "finder"),
    "start",
)


def build(run: Run, folder: Path, *, command: str) -> Path:
    """Write the page of `run`, its figures and its tables into `folder`; returns the path of the page."""
    use_theme()
    chapters = sections(run)
    requests = [request for chapter in chapters for request in chapter.figures]
    with drawing(requests, folder / "figures") as figures:
        for table in _tables(chapters):
            _write(table, folder / "tables")
        drawn = figures()
    page = folder / "index.html"
    page.write_text(_html(run, chapters, drawn, command), encoding="utf-8")
    return page


def _tables(chapters: Iterable[Section]) -> list[Table]:
    return [table for chapter in chapters for part in chapter.parts for table in part.tables]


def _most_rows(tables: Iterable[Table]) -> int:
    fields = sum(min(len(table.rows), _MOST_ROWS) * len(table.header) for table in tables)
    return min(_MOST_ROWS, max(_LEAST_ROWS, _MOST_ROWS * _MOST_FIELDS // max(1, fields)))


def _write(table: Table, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    forms = (("md", table.to_markdown()), ("tex", table.to_latex()), ("csv", table.to_csv()))
    for suffix, text in forms:
        (folder / f"{table.name}.{suffix}").write_text(text, encoding="utf-8")


def _script() -> str:
    """The parts in one function, so that none of their names is seen outside of it."""
    parts = [(_HERE / "script" / f"{name}.js").read_text(encoding="utf-8") for name in _SCRIPT]
    return "\n".join(['"use strict";', "(() => {", *parts, "})();"])


def _html(run: Run, chapters: list[Section], drawn: dict[str, Drawn], command: str) -> str:
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    return environment.get_template("template.html.j2").render(
        name=run.name,
        facts=header.facts(run),
        warnings=header.warnings(run),
        sections=chapters,
        drawn=drawn,
        command=command,
        untold=UNTOLD,
        most_rows=_most_rows(_tables(chapters)),
        large=sum(len(chart.marks) for figure in drawn.values() for chart in figure.charts) > _MOST_MARKS,
        filters=filters(run),
        rows_texts=rows_texts(run),
        chart_text=chart_text,
        rows_html=lambda rows, stacked: Markup(rows_html(rows, stacked=stacked)),
        script=Markup(_script()),
        css=Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        # matplotlib escapes the labels itself.
        svg=Markup,
    )
