"""`python -m reports.publish`: write the published reports again from their CSV files, or check them.

A published report is a folder `reports/published/<name>`; the rows behind it are `results/<name>/*.csv`. Both are
in the repository (docs/publishing.md). Without names, every published report; `--check` writes nothing and says
which committed table its rows do not give. Run it in the root of the repository, so that the page names no other
path.

Exit code 0: all stand. 1: a check found a difference. 2: the rows or the folder cannot be used.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from reports.__main__ import publish
from reports.load import ReportError, Run, load

PUBLISHED = Path("reports") / "published"
RESULTS = Path("results")
_FORMS = ("md", "tex", "csv")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m reports.publish", description=__doc__.split("\n\n")[1])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"a folder in {RESULTS}; all that are published")
    parser.add_argument("--check", action="store_true", help="compare the committed tables with the rows")
    options = parser.parse_args(arguments)
    names = options.names or published(Path())
    if not names:
        print(f"reports.publish: nothing in {PUBLISHED}; name a run in {RESULTS} to publish it", file=sys.stderr)
        return 2
    found: list[str] = []
    try:
        for name in names:
            if options.check:
                found += differences(Path(), name)
            else:
                print(publish([source(Path(), name)], PUBLISHED / name))
    except ReportError as error:
        print(f"reports.publish: {error}", file=sys.stderr)
        return 2
    for line in found:
        print(line)
    return 1 if found else 0


def published(root: Path) -> list[str]:
    """The names of the published reports in a repository."""
    folder = root / PUBLISHED
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def source(root: Path, name: str) -> Path:
    """The folder with the rows of a published report; ReportError where it has none."""
    folder = root / RESULTS / name
    if not any(folder.glob("*.csv")):
        raise ReportError(f"{folder}: has no CSV files, so {PUBLISHED / name} cannot be written from them")
    return folder


def differences(root: Path, name: str) -> list[str]:
    """What of the committed report its rows do not give: a line a table, none where all agree byte for byte."""
    folder = root / PUBLISHED / name
    run = load([source(root, name)])
    given = dict(_files(run))
    committed = {path.name: path for path in sorted((folder / "tables").glob("*"))}
    lines = [f"{folder / 'tables' / one}: not committed" for one in given if one not in committed]
    for file, path in committed.items():
        if file not in given:
            lines.append(f"{path}: no such table comes from the rows")
        elif path.read_text(encoding="utf-8") != given[file]:
            lines.append(f"{path}: differs from what the rows give")
    if not (folder / "index.html").exists():
        lines.append(f"{folder / 'index.html'}: missing")
    return lines


def _files(run: Run) -> Iterator[tuple[str, str]]:
    """(file name, content) of every table of the page."""
    from reports.sections import sections  # drawing libraries, which bad input should not wait for

    for section in sections(run):
        for part in section.parts:
            for table in part.tables:
                forms = (table.to_markdown(), table.to_latex(), table.to_csv())
                yield from ((f"{table.name}.{form}", text) for form, text in zip(_FORMS, forms, strict=True))


if __name__ == "__main__":
    sys.exit(main())
