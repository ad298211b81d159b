"""Run planned cells of a results folder: what a scheduler's job does. Written for by bench/cluster.py.

    python bench/one.py results/night 3cfcd73bf1b737b5 [more ids]    run these, unless they are done or being run
    python bench/one.py results/night --finish                       rows for cells that were lost, then the tables

Workers need to share nothing but the folder. Exit code 0: every cell has its record, however it ended. 1: another
worker has one of them, a record could not be written, or a cell is not in the folder's plan. 130: interrupted.
"""

import argparse
import sys
from pathlib import Path

# see bench/run.py
sys.path[:1] = [str(Path(__file__).resolve().parents[1]), str(Path.cwd())]

from bench.errors import BenchError  # noqa: E402
from bench.process import die_with_parent, end_as_if_interrupted  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python bench/one.py", description="Run planned cells of a results folder."
    )
    parser.add_argument("folder", type=Path, help="results/RUN")
    parser.add_argument("cells", nargs="*", metavar="CELL_ID")
    parser.add_argument("--finish", action="store_true", help="give lost cells a row, and write the tables")
    parser.add_argument(
        "--die-with-parent", action="store_true", help="end when the process that started this one does (Linux)"
    )
    options = parser.parse_intermixed_args(arguments)  # options may stand before the ids
    if bool(options.cells) == options.finish:
        parser.error("expected ids of cells, or --finish")
    end_as_if_interrupted()
    if options.die_with_parent:
        die_with_parent()
    from bench.jobs import finish, run_planned
    from bench.store import Store

    store = Store(options.folder.parent, options.folder.name)
    try:
        if options.finish:
            print(finish(store))
            return 0
        left = run_planned(store, options.cells)
    except BenchError as error:
        print(f"attnbench: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("attnbench: interrupted; finished cells are kept, the others are free", file=sys.stderr)
        return 130
    for line in left:
        print(f"attnbench: another worker runs {line}", file=sys.stderr)
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
