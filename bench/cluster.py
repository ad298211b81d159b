"""Run a sweep on a cluster: the same plan and the same results folder, the cells as jobs of a scheduler.

    python bench/cluster.py slurm sweep=full run=night                       writes an array of jobs and submits it
    python bench/cluster.py slurm sweep=full run=night --dry                 writes the scripts only
    python bench/cluster.py slurm sweep=lra hardware=cuda --sbatch=--partition=gpu --at-most 16
    python bench/cluster.py ray sweep=full run=night --address auto           a task a cell; ends with the last
    python bench/cluster.py dask sweep=full run=night --address tcp://host:8786

The folder must be on a file system that all workers see, and the environment (`.venv`) at the same path. Cells
that are done are not run again; docs/scaling.md tells more. Exit codes are those of bench/run.py.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# see bench/run.py
sys.path[:1] = [str(Path(__file__).resolve().parents[1]), str(Path.cwd())]

from tqdm import tqdm  # noqa: E402

from bench.cli import compose, parse_with_overrides  # noqa: E402
from bench.errors import BenchError  # noqa: E402
from bench.process import end_as_if_interrupted  # noqa: E402
from bench.schema import register  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python bench/cluster.py",
        description="Run a sweep on a cluster.",
        epilog="All other arguments are those of bench/run.py: sweep=full run=night method=performer",
    )
    parser.add_argument("scheduler", choices=("slurm", "ray", "dask"))
    parser.add_argument("--dry", action="store_true", help="slurm: write the scripts, submit nothing")
    parser.add_argument(
        "--sbatch", action="append", default=[], metavar="OPTION", help="slurm: one more for sbatch"
    )
    parser.add_argument("--at-most", type=int, metavar="N", help="slurm: jobs of an array that run at once")
    parser.add_argument("--address", help="ray, dask: of the cluster; default: one on this machine")
    options, overrides = parse_with_overrides(parser, arguments)
    register()
    end_as_if_interrupted()
    try:
        return _run(options, overrides)
    except BenchError as error:
        print(f"attnbench: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("attnbench: interrupted; finished cells are kept, the same command goes on", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace, overrides: list[str]) -> int:
    from bench.jobs import Needs, finish, needs, publish
    from bench.schedulers import slurm
    from bench.store import Store

    cfg, plan, limits, rerun = compose(overrides)
    store = Store(cfg.results_dir, cfg.run or cfg.sweep.name or "adhoc")
    pending = publish(store, plan, limits, rerun)
    kinds: dict[Needs, list[str]] = defaultdict(list)
    for item in pending:
        kinds[needs(item, limits)].append(item.cell.cell_id)
    print(f"{len(plan)} cells planned, {len(plan) - len(pending)} done already, {len(kinds)} kinds of jobs")
    if options.scheduler == "slurm":
        arrays, tables = slurm.scripts(store, kinds, options.sbatch, options.at_most)
        if options.dry:
            print("\n".join(str(path) for path in (*arrays, tables)))
        else:
            print(f"submitted as {', '.join(slurm.submit(arrays, tables))}; the last job writes the tables")
        return 0
    adapter = _adapter(options.scheduler)
    bar = tqdm(
        adapter.results(store.folder, kinds, options.address), total=len(pending), unit="cell", disable=None
    )
    for cell_id, complaint in bar:
        if complaint:
            tqdm.write(f"attnbench: {cell_id}: {complaint}", file=sys.stderr)
    print(finish(store))
    found = [store.read(item.cell.cell_id) for item in plan]
    return 1 if any(record is None or record["status"] == "error" for record in found) else 0


def _adapter(name: str) -> Any:
    from importlib import import_module

    return import_module(f"bench.schedulers.{name}")


if __name__ == "__main__":
    sys.exit(main())
