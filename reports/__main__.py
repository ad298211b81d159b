"""`python -m reports results/<run>` turns the CSV files of a run into a page, figures and tables."""

from __future__ import annotations

import argparse
import gc
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from reports.load import HOW_TO_RUN, ReportError, load

_BUILD = Path("reports") / "build"


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the report; 0 when the page stands, 2 when the input cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m reports",
        description="Turn the CSV files of a run into a page, with its figures and tables as files.",
        epilog=f"To measure something first: {HOW_TO_RUN}",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder with the CSV files of a run")
    parser.add_argument("--out", type=Path, help=f"folder for the report (default: {_BUILD}/<run>)")
    options = parser.parse_args(arguments)
    try:
        page = publish(options.runs, options.out)
    except ReportError as error:
        print(f"reports: {error}", file=sys.stderr)
        return 2
    print(page)
    return 0


@contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection: a report needs what it makes to its end, and walking it takes a sixth of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@_uncollected()
def publish(folders: Sequence[Path], out: Path | None = None) -> Path:
    """Build beside `out`, then put the result in its place, so that a failure leaves the old report whole."""
    run = load(folders)
    # Drawing libraries take a second to import, which bad input should not have to wait for.
    from reports.page import build

    target = out or _BUILD / "+".join(folder.resolve().name for folder in folders)
    _refuse_foreign(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    command = f"python -m reports {' '.join(map(str, folders))}"
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        staging.chmod(0o755)
        build(run, staging, command=command)
        if target.exists():
            shutil.rmtree(target)
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target / "index.html"


def _refuse_foreign(target: Path) -> None:
    """A folder that is no report is not replaced: it may hold what nobody can measure again."""
    if not target.exists():
        return
    if not target.is_dir():
        raise ReportError(f"{target}: is a file, not a folder for a report")
    foreign = sorted({path.name for path in target.iterdir()} - {"index.html", "figures", "tables"})
    if foreign:
        raise ReportError(f"{target}: holds {foreign[0]}, which is no part of a report; choose another --out")


if __name__ == "__main__":
    sys.exit(main())
