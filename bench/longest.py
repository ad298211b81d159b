"""The longest sequence that a memory holds, found by real runs: doubling, then bisection.

    python bench/longest.py method=performer mode=train memory_limit_mib=8192
    python bench/longest.py method=longformer,performer,sdpa memory_limit_mib=4096

Every length tried is a cell with a row in results/longest-8192mib, so nothing is tried twice, and the report sees
it. The limit is that of the cell's process, torch included. Exit code 1: a length failed for another reason than
memory. 2: refused.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# see bench/run.py
sys.path[:1] = [str(Path(__file__).resolve().parents[1]), str(Path.cwd())]

from bench.cli import compose, jobs, parse_with_overrides  # noqa: E402
from bench.compose import hydra_context  # noqa: E402
from bench.errors import BenchError, Refused  # noqa: E402
from bench.process import end_as_if_interrupted  # noqa: E402
from bench.schema import register  # noqa: E402

#: The first length; the share of a length to which the answer is known; and what no one waits for.
FIRST = 1024
PRECISION = 1 / 16
UP_TO = 2**24

#: How a cell ends that is too long for the memory.
TOO_LONG = ("oom", "skipped")


@dataclass(frozen=True)
class Found:
    """The longest length that ran, and the shortest that did not; None where there is none."""

    longest: int | None
    shortest_failure: int | None


def search(attempt: Callable[[int], dict[str, Any]], first: int = FIRST, up_to: int = UP_TO) -> Found:
    """Double from `first` until a length fails or `up_to` is reached, then bisect. attempt: length -> record.

    BenchError when a length ends in anything but `ok` or for want of memory.
    """
    good: int | None = None
    bad: int | None = None
    length = first
    while bad is None and length <= up_to:
        good, bad = (length, bad) if _fits(attempt, length) else (good, length)
        length *= 2
    while good is not None and bad is not None and bad - good > max(good * PRECISION, 1):
        step = max(1, 2 ** (int(good * PRECISION).bit_length() - 1))
        middle = max(good + (bad - good) // 2 // step * step, good + 1)
        good, bad = (middle, bad) if _fits(attempt, middle) else (good, middle)
    return Found(good, bad)


def _fits(attempt: Callable[[int], dict[str, Any]], length: int) -> bool:
    record = attempt(length)
    if record["status"] != "ok" and record["status"] not in TOO_LONG:
        raise BenchError(f"seq_len={length}: {record['status']}: {record['reason']}")
    return bool(record["status"] == "ok")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python bench/longest.py",
        description="Find the longest sequence that a memory holds.",
        epilog="Arguments are those of bench/run.py; memory_limit_mib is needed.",
    )
    parser.add_argument("--up-to", type=int, default=UP_TO, metavar="N", help=f"no longer than this; {UP_TO}")
    options, overrides = parse_with_overrides(parser, arguments)
    register()
    end_as_if_interrupted()
    code = 0
    try:
        with hydra_context():
            for job in jobs(overrides, multirun=True):
                code = max(code, _one(job, options.up_to))
    except BenchError as error:
        print(f"attnbench: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("attnbench: interrupted; the same command goes on", file=sys.stderr)
        return 130
    return code


def _one(job: list[str], up_to: int) -> int:
    from bench.show import quantity
    from bench.store import Store
    from bench.sweep import run_plan

    fixed = [*job, "measure.passes=[memory]"]

    def attempt(length: int) -> dict[str, Any]:
        cfg, plan, limits, _ = compose([*fixed, f"seq_len={length}"])
        if cfg.memory_limit_mib is None:
            raise Refused("memory_limit_mib: missing; say how much memory there is, memory_limit_mib=8192")
        # a folder a limit: a record does not say under which it came about
        store = Store(cfg.results_dir, f"{cfg.run or 'longest'}-{cfg.memory_limit_mib:g}mib")
        (record,) = run_plan(plan, store, limits, "none", bar=False).records
        peak = record["results"].get("memory", {}).get("peak_mib")
        outcome = f"peak {quantity(peak)} MiB" if peak is not None else record["reason"]
        print(f"  {' '.join(job)}: seq_len {length:,} {record['status']}, {outcome}")
        return record

    try:
        found = search(attempt, up_to=up_to)
    except Refused:
        raise
    except BenchError as error:
        print(f"attnbench: {' '.join(job)}: {error}", file=sys.stderr)
        return 1
    print(f"{' '.join(job)}: {_sentence(found)}")
    return 0


def _sentence(found: Found) -> str:
    if found.longest is None:
        return f"not even {found.shortest_failure:,} tokens fit"
    if found.shortest_failure is None:
        return f"at least {found.longest:,} tokens, the longest that was tried"
    return f"{found.longest:,} tokens fit, {found.shortest_failure:,} do not"


if __name__ == "__main__":
    sys.exit(main())
