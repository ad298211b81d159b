"""Published numbers are context: complete, with their sources, and nowhere among what was measured."""

from __future__ import annotations

import ast
import csv
import io
import re
from pathlib import Path

import pytest
from synthetic_run import Tables, cost, synthetic_run

import reports
from reports import literature
from reports.literature import Number, Source, caveats, literature_tables, numbers, sources
from reports.load import Run, load
from reports.schema import TABLES
from reports.sections import Part, sections

PACKAGE = Path(reports.__file__).parent


def test_every_number_has_a_source_with_its_table_and_setting() -> None:
    assert len(numbers()) > 200
    assert {one.source for one in numbers()} == set(sources())
    for source in sources().values():
        assert all(vars(source).values()), source
        assert any(word in source.table for word in ("Table", "table"))
    for one in numbers():
        assert one.model
        assert one.unit
        assert bool(one.task) or bool(one.seq_len)
        assert one.value == "FAIL" or float(one.value) > 0
        if one.measure == "accuracy" and one.value != "FAIL":
            assert float(one.value) <= 100


def test_no_number_stands_twice() -> None:
    keys = [(one.source, one.model, one.task, one.seq_len, one.measure) for one in numbers()]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(
    ("source", "model", "average"),
    [
        # As the papers print them, over the five tasks without Path-X.
        ("lra", "Transformer", 54.39),
        ("lra", "BigBird", 55.01),
        ("lra", "Performer", 51.41),
        ("lra", "Linformer", 51.36),
        ("lra", "Reformer", 50.67),
        ("lra", "Longformer", 53.46),
        ("lra", "Local", 46.06),
        ("lra", "Linear Transformer", 50.55),
        ("nystromformer", "Nystromformer", 58.95),
        ("nystromformer", "Performer", 53.63),
        ("skyformer", "Reformer", 58.99),
        ("skyformer", "BigBird", 59.05),
        ("flashattention", "Linear attention", 59.6),
        ("flashattention", "Performer", 58.9),
        ("xformers", "Nystromformer-128", 57.61),
        ("xformers", "Standard", 57.69),
    ],
)
def test_averages_are_those_that_the_sources_print(source: str, model: str, average: float) -> None:
    five = [
        float(one.value)
        for one in numbers()
        if (one.source, one.model) == (source, model) and one.measure == "accuracy" and one.task != "pathx"
    ]
    assert len(five) == 5
    assert sum(five) / 5 == pytest.approx(average, abs=0.051)


def test_methods_are_names_of_this_harness() -> None:
    known = {path.stem for path in (PACKAGE.parent / "conf" / "method").glob("*.yaml")}
    assert {one.method for one in numbers()} - {""} <= known


def test_what_the_run_measured_goes_first() -> None:
    accuracy, cost_table, _ = literature_tables(["performer"], ["image", "pathfinder_mini"])
    assert accuracy.header[:5] == ("model", "source", "image", "pathfinder", "listops")
    assert "Performer" in accuracy.rows[0][0].text
    assert "Performer" in cost_table.rows[0][0].text
    assert len(accuracy.rows) == len({(one.source, one.model) for one in numbers() if one.measure == "accuracy"})


def test_the_caveat_names_the_widest_disagreement() -> None:
    words = re.search(r"(\w+) on (\w+) is ([\d.]+) to ([\d.]+) % in (\d+) sources", caveats()[1])
    assert words
    method, task, low, high, count = words.groups()
    values = {
        (one.method, one.task): [
            float(other.value)
            for other in numbers()
            if (other.method, other.task, other.unit) == (one.method, one.task, "%") and other.value != "FAIL"
        ]
        for one in numbers()
        if one.method and one.unit == "%"
    }
    here = values[method, task]
    assert (min(here), max(here), len(here)) == (float(low), float(high), int(count))
    assert all(max(group) - min(group) <= float(high) - float(low) for group in values.values() if group)


def test_only_the_page_s_sections_know_it() -> None:
    """By the imports: no plot, no table, no fit, no answer can reach these numbers."""
    knowing = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            if "reports.literature" in names:
                knowing.add(path.name)
    assert knowing == {"sections.py"}
    assert "literature" not in TABLES


def sentinel(monkeypatch: pytest.MonkeyPatch) -> None:
    """All published numbers become one that nothing measured has."""
    fake = [Number(**(vars(one) | {"value": "77.7531"})) for one in numbers()]
    monkeypatch.setattr(literature, "numbers", lambda: tuple(fake))


def measured_parts(run: Run) -> list[Part]:
    return [part for section in sections(run) if section.anchor != "literature" for part in section.parts]


def test_no_published_number_enters_a_measured_table_or_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = load([synthetic_run().write(tmp_path / "run")])
    sentinel(monkeypatch)
    (context,) = [part for section in sections(run) if section.anchor == "literature" for part in section.parts]
    assert context.figures == ()
    assert "77.7531" in context.tables[0].to_markdown()
    found = 0
    for part in measured_parts(run):
        for table in part.tables:
            assert not table.name.startswith("literature")
            texts = (table.to_markdown(), table.to_latex(), table.to_csv())
            assert not any("77.7531" in text or "published elsewhere" in text for text in texts), table.name
            found += 1
        for request in part.figures:
            assert "77.7531" not in request.plot.data(request.run).to_csv()
            found += 1
        assert not any("77.7531" in sentence for sentence in part.sentences)
    assert found > 20


def test_every_row_of_its_files_is_marked(tmp_path: Path) -> None:
    for table in literature_tables([], []):
        assert table.name.startswith("literature-")
        assert "not measured here" in table.title
        assert not any(cell.bold or cell.look == "number" for row in table.rows for cell in row)
        rows = list(csv.DictReader(io.StringIO(table.to_csv())))
        assert {row["origin"] for row in rows} == {"published elsewhere"}


def test_its_files_are_no_run(tmp_path: Path) -> None:
    """Put where a run's files lie, they are not read."""
    tables = Tables()
    tables.rows["efficiency"] = [cost("sdpa", 512)]
    folder = tables.write(tmp_path / "run")
    for name in ("literature.csv", "literature_sources.csv"):
        (folder / name).write_text((PACKAGE / name).read_text())
    assert len(load([folder]).efficiency) == 1


def test_it_is_the_last_section_and_its_tables_are_closed(tmp_path: Path) -> None:
    from reports.__main__ import publish

    tables = Tables()
    tables.rows["efficiency"] = [cost("sdpa", 512)]
    folder = tables.write(tmp_path / "run")
    assert sections(load([folder]))[-1].anchor == "literature"
    page = publish([folder], tmp_path / "out").read_text()
    section = page[page.index('<section id="literature">') :]
    section = section[: section.index("</section>")]
    assert section.count("<details") == 3
    assert "open" not in "".join(part.split(">")[0] for part in section.split("<details")[1:])


def test_sources_are_told_apart() -> None:
    names = [Source.name.fget(one) for one in sources().values()]  # type: ignore[attr-defined]
    assert len(names) == len(set(names))
