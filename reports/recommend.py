"""`python -m reports.recommend results/<run> seq_len=16384 memory_gib=8 mode=train`: which method to use, and why.

Answers from measured rows alone: the method, what it costs, the runner-up and the margin, what was left out and
why. Where the rows cannot tell it says so, and which command would find out. A length that was not measured gets
an estimate by the fitted power law, marked as one.

    seq_len=N                   tokens (needed)
    mode=MODE                   forward (default), train or decode
    memory_gib=G                what one call may hold: inputs, parameters and the peak beyond them
    error=E                     largest output error on random q and k, relative to exact attention
    task=NAME [accuracy=A]      accuracies on a task of the run beside, at least A (0 to 1)
    level=, causal=             core and false, unless given
    env_id=, device=, dtype=, threads=, heads=, kv_heads=, head_dim=, batch_size=, compile=
                                one value of several in the run; without, each has an answer of its own

Exit code 0: there is an answer, measured or marked as an estimate. 1: no method fits. 2: the question or the run
cannot be used.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from reports.answer import Contender
from reports.feasibility import MIB_A_GIB
from reports.load import HOW_TO_RUN, ReportError, load
from reports.points import Row, records
from reports.question import EXAMPLE, Question, ask
from reports.recommendation import FEWEST_SEEDS, Gap, Option, Recommendation, recommend
from reports.remeasure import command, training
from reports.text import interval, length, number, percent, plural, times

_RESULTS = Path("results")
#: Of methods that a question leaves open for one reason, as many are named in commands.
_MOST_COMMANDS = 6


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m reports.recommend",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("arguments", nargs="*", metavar="RUN or KEY=VALUE", help=f"results/<run> {EXAMPLE}")
    parser.add_argument("--json", action="store_true", help="print everything as one JSON object")
    options = parser.parse_args(arguments)
    try:
        question = ask([word for word in options.arguments if "=" in word and not Path(word).is_dir()])
        folders = [Path(word) for word in options.arguments if "=" not in word or Path(word).is_dir()] or [_only()]
        run = load(folders)
        found = recommend(run, question)
    except ReportError as error:
        print(f"reports.recommend: {error}", file=sys.stderr)
        return 2
    for line in run.unfinished:
        print(f"reports.recommend: note: {line}", file=sys.stderr)
    if options.json:
        answers = [facts(one, folders[0]) for one in found]
        print(
            json.dumps(
                {"question": asdict_of(question), "runs": [*map(str, folders)], "answers": answers}, indent=1
            )
        )
    else:
        print("\n\n".join("\n".join(words(one, folders[0])) for one in found))
    return 0 if any(one.best for one in found) else 1


def _only() -> Path:
    """The one run under results/, where none is named."""
    runs = sorted(path.parent for path in _RESULTS.glob("*/efficiency.csv"))
    if len(runs) == 1:
        return runs[0]
    if not runs:
        raise ReportError(f"no run named, and none in {_RESULTS}; to measure something first: {HOW_TO_RUN}")
    raise ReportError(f"name one of the runs in {_RESULTS}: {', '.join(map(str, runs))}")


def words(found: Recommendation, folder: Path) -> Iterator[str]:
    """The answer, a line a thought."""
    run, question = found.setting.run, found.question
    environment = str(run.efficiency["env_id"].iloc[0])
    yield f"{question.text} ({found.setting.context}; environment {environment})"
    if not found.measured:
        yield f"  NOT MEASURED at {question.seq_len:,} tokens: {_around(found)}."
    best = found.best
    if best is None:
        yield "No method of this run fits." if found.measured else "No estimate fits."
    else:
        yield from _named("Use", best, found)
        yield from _beside(found)
    if found.excluded:
        yield "Left out:"
        yield from (f"  {one.series}: {one.reason}" for one in found.excluded)
    yield from _warned(found)
    todo = commands(found, folder)
    if todo:
        yield "To find out:"
        yield from (f"  {line}" for line in todo)


def _around(found: Recommendation) -> str:
    below, above = found.around
    if below and above:
        text = f"between {length(below)} and {length(above)}, which were"
    elif below:
        text = f"{found.question.seq_len / below:.3g} times {length(below)}, the longest measured length"
    else:
        text = f"shorter than {length(above or 0)}, the shortest measured length"
    return f"{text}; all below are estimates by the power law fitted to the measured lengths, no measurements"


def _named(verb: str, option: Option, found: Recommendation) -> Iterator[str]:
    one = option.contender
    mark = "" if found.measured else " (estimate)"
    yield f"{verb} {one.series}{mark}."
    yield f"  time      {interval(one.latency_ms, one.latency_low, one.latency_high)} ms a call{mark}"
    if math.isfinite(one.speedup):
        yield f"  speed     {times(one.speedup, one.low, one.high)} SDPA{mark}"
    yield f"  memory    {_memory(option, found.question)}{mark if math.isfinite(option.footprint_mib) else ''}"
    yield f"  quality   {_quality(one, found.measured)}"
    if option.accuracy is not None:
        yield f"  accuracy  {_accuracy(option)} on {found.question.task}"
    elif found.question.task:
        yield f"  accuracy  this configuration was not trained on {found.question.task}"


def _memory(option: Option, question: Question) -> str:
    if math.isnan(option.footprint_mib):
        return "not measured"
    limit = f" of {question.memory_gib:g}" if question.memory_gib is not None else ""
    peak = f"a peak of {number(option.contender.peak_mib)} MiB beyond inputs and parameters"
    return f"{number(option.footprint_mib / MIB_A_GIB)}{limit} GiB: {peak}"


def _quality(one: Contender, measured: bool) -> str:
    if one.exact:
        return "exact attention"
    if math.isnan(one.error):
        return "output error not measured"
    text = f"output error {number(one.error)} on random q and k"
    if not measured:
        text += ", at the nearest measured length"
    return f"{text}; zeros have 1, so only training tells what it is good for" if one.error >= 1 else text


def _accuracy(option: Option) -> str:
    point = option.accuracy
    if point is None or not point.measured:
        return f"{point.failure or 'none' if point else 'none'}"
    ends = f"[{percent(point.low)}, {percent(point.high)}]"
    return f"{percent(point.value)} % {ends}, {plural(point.count, 'seed')}"


def _beside(found: Recommendation) -> Iterator[str]:
    """The runner-up, and what to use where the output has to be that of exact attention."""
    best, other, exact = found.best, found.runner_up, found.exact
    if best is None:
        return
    if other is None:
        yield "Runner-up: none is left."
    elif found.tie:
        yield f"Runner-up: {_short(other)}. The data cannot tell them apart: their intervals overlap."
    else:
        sure = "beyond the noise" if found.measured else "if the laws hold"
        ahead = f"{best.contender.series} is {number(found.margin)} times as fast, {sure}"
        yield f"Runner-up: {_short(other)}; {ahead}."
    if exact and exact.contender.series != best.contender.series:
        yield f"Where the output has to be that of exact attention: {_short(exact)}."


def _short(option: Option) -> str:
    one = option.contender
    if math.isfinite(one.speedup):
        return f"{one.series} ({times(one.speedup, one.low, one.high)} SDPA)"
    return f"{one.series} ({interval(one.latency_ms, one.latency_low, one.latency_high)} ms)"


def doubts(found: Recommendation) -> list[str]:
    """What a reader should know before relying on the answer."""
    question, best = found.question, found.best
    lines: list[str] = []
    if best is None:
        return lines
    row = found.row(best.contender.series)
    if question.memory_gib is not None and math.isfinite(best.footprint_mib):
        if best.footprint_mib > 0.95 * question.memory_gib * MIB_A_GIB:
            lines.append("the memory leaves less than 5 % to spare")
        if row["level"] == "core":
            lines.append(
                "the memory is that of one layer's attention, without a model around it and without torch"
            )
        elif row["level"] == "model" and question.mode == "train":
            lines.append("the optimiser's state and torch itself come on top of this memory")
    if not best.contender.exact and question.error is None and question.accuracy is None:
        lines.append("no quality was asked for: add error=0.1, or task=NAME accuracy=A")
    point = best.accuracy
    if point and point.measured:
        if point.count < FEWEST_SEEDS:
            lines.append(f"an accuracy of {plural(point.count, 'seed')} says little about training")
        if question.accuracy is not None and point.low < question.accuracy:
            lines.append(f"its accuracy may be below {percent(question.accuracy)} %: the interval reaches there")
    return lines


def _warned(found: Recommendation) -> Iterator[str]:
    lines = doubts(found)
    if lines:
        yield "Mind:"
        yield from (f"  {line}" for line in lines)


def commands(found: Recommendation, folder: Path) -> list[str]:
    """What to run to settle what the rows leave open; nothing where they leave nothing open."""
    everything = records(found.setting.run.efficiency)
    counts: dict[Gap, int] = {}
    lines = []
    for series, gap in dict.fromkeys(found.gaps):
        counts[gap] = counts.get(gap, 0) + 1
        if counts[gap] <= _MOST_COMMANDS:
            lines.append(_command(gap, found.row(series), everything, found.question, folder))
    return list(dict.fromkeys(lines))


def _command(gap: Gap, row: Row, everything: Sequence[Row], question: Question, folder: Path) -> str:
    if gap in ("accuracy", "seeds"):
        return training(row, everything, folder, str(question.task), 5 if gap == "seeds" else FEWEST_SEEDS)
    asked = {
        "memory": ("measure.passes=[memory]",),
        "latency": ("measure.passes=[latency]",),
        "error": ("measure=error",),
        "length": (),
        # A run of its own: repeats in one run widen an interval, they do not narrow it.
        "rounds": ("measure.budget_s=30", "measure.max_rounds=200", f"run={folder.resolve().name}-again"),
    }[gap]
    return command(row, everything, folder, f"seq_len={question.seq_len}", *asked)


def asdict_of(question: Question) -> dict[str, object]:
    """The question as plain values."""
    fields = ("seq_len", "mode", "memory_gib", "error", "task", "accuracy")
    return {name: getattr(question, name) for name in fields} | dict(question.axes)


def facts(found: Recommendation, folder: Path) -> dict[str, object]:
    """Everything that `words` says, as plain values; what is not known is None."""
    return {
        "environment": str(found.setting.run.efficiency["env_id"].iloc[0]),
        "setting": found.setting.context,
        "measured": found.measured,
        "measured_lengths_around": list(found.around),
        "recommended": _option(found.best, found),
        "runner_up": _option(found.runner_up, found),
        "margin": _known(found.margin),
        "distinguishable": None if found.runner_up is None else not found.tie,
        "exact": _option(found.exact, found),
        "excluded": [{"series": one.series, "kind": one.kind, "reason": one.reason} for one in found.excluded],
        "doubts": doubts(found),
        "commands": commands(found, folder),
    }


def _option(option: Option | None, found: Recommendation) -> dict[str, object] | None:
    if option is None:
        return None
    one, point, row = option.contender, option.accuracy, found.row(option.contender.series)
    numbers = {
        "latency_ms": one.latency_ms,
        "latency_ms_low": one.latency_low,
        "latency_ms_high": one.latency_high,
        "speedup": one.speedup,
        "speedup_low": one.low,
        "speedup_high": one.high,
        "peak_mib": one.peak_mib,
        "footprint_mib": option.footprint_mib,
        "output_error": one.error,
        "accuracy": point.value if point else math.nan,
        "accuracy_low": point.low if point else math.nan,
        "accuracy_high": point.high if point else math.nan,
    }
    names = {"series": one.series, "method": one.method, "budget_name": row["budget_name"] or None}
    budget = float(str(row["budget_value"])) if row["budget_value"] is not None else math.nan
    seeds = point.count if point else 0
    known = {name: _known(value) for name, value in numbers.items()}
    return names | {"budget_value": _known(budget), "exact": one.exact} | known | {"accuracy_seeds": seeds}


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


if __name__ == "__main__":
    sys.exit(main())
