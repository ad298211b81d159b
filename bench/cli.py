"""The command line: refuse what is wrong in one line, hand the rest to Hydra, run, say where the rows are."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig

from bench import torchrun
from bench.compose import CONF, Composer, first_line, hydra_context, key_of
from bench.errors import BenchError, Refused
from bench.process import die_with_parent, end_as_if_interrupted
from bench.schema import register

#: Plans by the overrides of their job: what was planned to check a command line is what its jobs run.
_plans: dict[tuple[str, ...], list[Any]] = {}

#: The exit code that the jobs of this process came to; Hydra itself drops what a job returns.
_exit_code = 0

INTERRUPTED = 130


def main() -> None:
    """Entry of `python bench/run.py` and of the `attnbench` command."""
    register()
    end_as_if_interrupted()
    if torchrun.launched():
        die_with_parent()
    try:
        check(sys.argv[1:])
        application()
    except BenchError as error:
        complain(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("attnbench: interrupted before any cell was done", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        sys.exit(unread())
    sys.exit(_exit_code)


def complain(error: BenchError) -> None:
    """Say in one line what is wrong, once where torchrun has started several of us."""
    if not torchrun.follows():
        print(f"attnbench: {error}", file=sys.stderr)


def unread() -> int:
    """Say that nobody reads our output any more, as after `| head`, and drop what is left of it; the exit code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    print(
        "attnbench: the reader of the output has left; finished cells are kept, the same command goes on",
        file=sys.stderr,
    )
    return 1


def check(argv: Sequence[str]) -> None:
    """Compose and check everything that a command line asks for, before Hydra starts. Raises Refused."""
    args = get_args_parser().parse_args(list(argv))
    if args.help or args.hydra_help or args.info or args.shell_completion or args.config_name or args.config_path:
        return
    search = [f"hydra.searchpath=[file://{Path(args.config_dir).resolve()}]"] if args.config_dir else []
    with hydra_context():
        composer = Composer()
        for overrides in jobs(args.overrides, args.multirun):
            plan = _cells(composer.compose([*search, *overrides]), [*search, *overrides], composer)
            _plans[_of_task(overrides)] = plan


def _of_task(overrides: Sequence[str]) -> tuple[str, ...]:
    """The overrides of a job that are not Hydra's own."""
    return tuple(item for item in overrides if not key_of(item).startswith("hydra"))


def compose(overrides: Sequence[str]) -> tuple[DictConfig, list[Any], Any, str]:
    """What a command line without --multirun asks for: configuration, plan, limits, which cells run again."""
    with hydra_context():
        composer = Composer()
        cfg = composer.compose(list(overrides))
        plan = _cells(cfg, overrides, composer)
    return cfg, plan, limits(cfg, cfg.isolation.value), _rerun(cfg)


def parse_with_overrides(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None
) -> tuple[argparse.Namespace, list[str]]:
    """(options, overrides): what the parser does not know is Hydra's, unless it looks like an option."""
    options, overrides = parser.parse_known_args(arguments)
    unknown = [item for item in overrides if item.startswith("-")]
    if unknown:
        parser.error(f"{unknown[0]}: no such option")
    return options, overrides


def limits(cfg: DictConfig, isolation: str) -> Any:
    """How cells may run."""
    from bench.execute import Limits

    timeout_s = cfg.sweep.timeout_s if cfg.timeout_s is None else cfg.timeout_s
    return Limits(isolation, timeout_s, cfg.memory_limit_mib, cfg.checkpoint_s)


def _rerun(cfg: DictConfig) -> str:
    return str(cfg.rerun.value) if cfg.rerun is not None else "none" if cfg.sweep.grids else "all"


def _teams(cfg: DictConfig, plan: list[Any]) -> list[Any]:
    """Which cells of a sweep run side by side; none under torchrun, whose processes share each training."""
    from bench.device import gpus
    from bench.pool import teams_of
    from bench.resolve import available_cores

    if torchrun.launched() or not cfg.sweep.grids:
        return []
    return teams_of(plan, available_cores(), gpus(), cfg.workers)


def jobs(overrides: Sequence[str], multirun: bool) -> list[list[str]]:
    """The override lists of a command line: one, or all of a --multirun as Hydra's own sweeper splits them."""
    if not multirun:
        return [list(overrides)]
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        batches = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    except HydraException as error:
        raise Refused(first_line(error)) from error
    return [list(job) for batch in batches for job in batch]


def _cells(cfg: DictConfig, overrides: Sequence[str], composer: Composer) -> list[Any]:
    """The cells of one job: the grids of its sweep, or the one cell."""
    from bench.plan import cell_of, plan_cells, share, sweep_cells

    cells = sweep_cells(cfg.sweep, overrides, composer) if cfg.sweep.grids else [cell_of(cfg)]
    return share(plan_cells(cells), cfg.shard)


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def application(cfg: DictConfig) -> None:
    """One Hydra job: a cell, or a whole sweep. Catches every failure, so that a multirun goes on."""
    global _exit_code
    try:
        code = run_job(cfg)
    except BenchError as error:
        complain(error)
        code = error.exit_code
    except BrokenPipeError:
        code = unread()
    _exit_code = max(_exit_code, code)


def run_job(cfg: DictConfig) -> int:
    """Run what the configuration asks for and return the exit code."""
    hydra_config = HydraConfig.get()
    overrides = list(hydra_config.overrides.task)
    plan = _plans.pop(_of_task(overrides), None)
    if plan is None:  # in a launcher's process, or a job that a file of Hydra's sweeper added
        with hydra_context():
            plan = _cells(cfg, overrides, Composer())
    nested = "BasicLauncher" not in str(hydra_config.launcher.get("_target_", "BasicLauncher"))
    isolation = "subprocess" if nested and cfg.isolation.value == "auto" else cfg.isolation.value
    if torchrun.follows():
        torchrun.follow(isolation)
        return 0
    try:
        return _run(cfg, plan, isolation)
    finally:
        if torchrun.launched():
            torchrun.announce(None)


def _run(cfg: DictConfig, plan: list[Any], isolation: str) -> int:
    """Run the cells of a job, say where their rows are, and return the exit code."""
    from bench.pool import run_in_teams
    from bench.show import cell_table
    from bench.store import Store

    sweep = bool(cfg.sweep.grids)
    store = Store(hydra.utils.to_absolute_path(cfg.results_dir), cfg.run or cfg.sweep.name or "adhoc")
    summary = run_in_teams(
        plan,
        store,
        limits(cfg, isolation),
        _rerun(cfg),
        _teams(cfg, plan),
        bar=sweep or len(plan) > 1 or plan[0].cell.table == "accuracy",
    )
    for complaint in summary.complaints:
        print(f"attnbench: {complaint}", file=sys.stderr)
    where = os.path.relpath(store.folder)
    if summary.interrupted:
        left = summary.planned - len(summary.records)
        print(
            f"\nattnbench: interrupted; {len(summary.records)} of {summary.planned} cells are in {where}, "
            f"{left} to go: run the same command again{'' if sweep else ' with rerun=none'}",
            file=sys.stderr,
        )
        if not sweep:
            raise KeyboardInterrupt
        return INTERRUPTED
    for line in summary.elsewhere:
        print(f"attnbench: another worker runs {line}", file=sys.stderr)
    if not sweep and not summary.elsewhere:
        record = summary.records[0]
        print(cell_table(record))
        print(f"rows         {where}/*.csv, record {where}/cells/{record['cell_id']}.json")
        return 0 if record["status"] == "ok" else 1
    ran = f"{summary.executed} cells run" if summary.executed else "no cell run: all were done already"
    print(f"{ran}; {summary.counts()}; rows in {where}/*.csv")
    return 1 if any(record["status"] == "error" for record in summary.records) else 0
