"""What the page says, in its order: from the answer over scaling and quality to machine and context."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from reports import plots
from reports.accuracy import accuracy_sentences
from reports.answer import answers, contenders, sentences
from reports.figures import Request
from reports.hardware import hardware
from reports.literature import caveats, literature_tables
from reports.load import HOW_TO_RUN, Run
from reports.noise import noise_sentences
from reports.plots.base import Plot
from reports.reproduce import commands
from reports.settings import Setting, cost_settings, error_settings, task_settings, trained_error_settings
from reports.tables import Table
from reports.tables.answer import answer_table
from reports.tables.failures import (
    backends_table,
    environments_table,
    failures_table,
    gaps_table,
    noise_table,
    runs_table,
)
from reports.tables.memory import longest_table, within_table
from reports.tables.peers import peers_tables
from reports.tables.quality import accuracy_table, error_table, parameters_table, tradeoff_table
from reports.tables.scaling import scaling_tables
from reports.tables.trained_error import trained_error_table
from reports.text import slug


@dataclass(frozen=True)
class Part:
    """What belongs to one setting: sentences, figures, tables and commands; `hardware`: where it was measured."""

    heading: str = ""
    context: str = ""
    sentences: tuple[str, ...] = ()
    hardware: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    figures: tuple[Request, ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True)
class Section:
    """A chapter of the page; `empty` says what is missing where it has no part."""

    anchor: str
    title: str
    parts: tuple[Part, ...] = field(default=())
    empty: str = ""


def sections(run: Run) -> list[Section]:
    """Every section of the page, also those that have nothing to show and say so."""
    costs, errors = cost_settings(run), error_settings(run)
    trained, curves = task_settings(run, "accuracy"), task_settings(run, "curves")
    tagged = task_settings(run, "breakdown")
    return [
        Section(
            "answer",
            "Which method should I use here?",
            (*_each(costs, _answer), *_each(trained, _most_accurate)),
            _missing("a cost or an accuracy", "efficiency.csv or accuracy.csv"),
        ),
        Section("scaling", "How does it scale?", _each(costs, _scaling), _missing("a cost", "efficiency.csv")),
        Section(
            "error",
            "What does it cost in quality: error",
            (*_each(errors, _error), *_each(trained_error_settings(run), _trained_error)),
            _missing("an error", "errors.csv", "measure=error"),
        ),
        Section(
            "accuracy",
            "What does it cost in quality: accuracy",
            (*_each(trained, _accuracy), *_each(tagged, _breakdown), *_each(curves, _curves)),
            _missing("an accuracy", "accuracy.csv", "task=listops"),
        ),
        Section(
            "tradeoff",
            "Accuracy, speed and memory together",
            _each(trained, _tradeoff),
            "No configuration has both an accuracy and a speed in one environment. Train it on a task, and for "
            "paired times also measure the same configuration with measure=cost.",
        ),
        Section(
            "memory",
            "How long a sequence fits?",
            _each(costs, _memory),
            _missing("a peak of memory", "efficiency.csv"),
        ),
        Section(
            "peers",
            "Ours and other people's code",
            _several(peers_tables(run)),
            "This run measured no third-party implementation. To measure those that are installed: make peers",
        ),
        Section(
            "failures",
            "What failed, and what is missing",
            (*_whole(failures_table(run)), *_each(costs, _gaps)),
            "Every cell ended well, and every method was measured at every length.",
        ),
        Section("noise", "How much is noise?", _noise(run), "No cell timed SDPA against itself; add method=sdpa."),
        Section(
            "environment",
            "On which machine",
            (*_whole(runs_table(run)), *_whole(environments_table(run)), *_whole(backends_table(run))),
        ),
        Section("reproduce", "How to reproduce", _reproduce(run)),
        Section("literature", "What was published (context, not measured here)", (_literature(run),)),
    ]


def _missing(what: str, files: str, option: str = "") -> str:
    example = f"python bench/run.py {option}" if option else HOW_TO_RUN
    return f"This run measured no such thing: {files} has no rows with {what}. To measure: {example}"


def _each(settings: list[Setting], build: Callable[[Setting, str], Part | None]) -> tuple[Part, ...]:
    parts = ((setting, build(setting, f"-{setting.slug}" if setting.slug else "")) for setting in settings)
    return tuple(replace(part, hardware=_hardware(setting)) for setting, part in parts if part is not None)


def _hardware(setting: Setting) -> tuple[str, ...]:
    """Where the rows of the setting's table were measured, as the filters call it."""
    return tuple(dict.fromkeys(hardware(setting.run, getattr(setting.run, setting.table))))


def _requests(group: tuple[Plot, ...], setting: Setting, suffix: str) -> tuple[Request, ...]:
    return tuple(Request(plot, setting.run, f"{plot.name}{suffix}", setting.label) for plot in group)


def _answer(setting: Setting, suffix: str) -> Part | None:
    places = contenders(setting.run)
    found = answers(setting.run, places)
    if not found:
        return None
    tables = (within_table(setting.run, places, suffix), answer_table(found, suffix))
    return Part(
        setting.label, setting.context, tuple(sentences(found)), tables=tuple(table for table in tables if table)
    )


def _most_accurate(setting: Setting, _: str) -> Part | None:
    lines = accuracy_sentences(setting.run)
    return (
        Part(f"accuracy, {setting.label}" if setting.label else "accuracy", sentences=tuple(lines))
        if lines
        else None
    )


def _scaling(setting: Setting, suffix: str) -> Part:
    figures = _requests(plots.SCALING, setting, suffix)
    tables = tuple(scaling_tables(setting.run, suffix))
    return Part(setting.label, setting.context, figures=figures, tables=tables)


def _error(setting: Setting, suffix: str) -> Part:
    figures = _requests(plots.ERROR, setting, suffix)
    return Part(setting.label, setting.context, figures=figures, tables=(error_table(setting.run, suffix),))


def _trained_error(setting: Setting, suffix: str) -> Part:
    return Part(setting.label, setting.context, tables=(trained_error_table(setting.run, suffix),))


def _accuracy(setting: Setting, suffix: str) -> Part:
    tables = (accuracy_table(setting.run, suffix), parameters_table(setting.run, suffix))
    return Part(
        setting.label,
        figures=_requests(plots.ACCURACY, setting, suffix),
        tables=tuple(table for table in tables if table),
    )


def _breakdown(setting: Setting, suffix: str) -> Part:
    frame = setting.run.breakdown
    figures = []
    for task in sorted(frame["task"].unique()):
        run = setting.run.narrow("breakdown", frame[frame["task"] == task])
        label = f"{task}, {setting.label}" if setting.label else str(task)
        figures += [Request(plot, run, f"{plot.name}-{slug(task)}{suffix}", label) for plot in plots.BREAKDOWN]
    return Part(setting.label, figures=tuple(figures))


def _curves(setting: Setting, suffix: str) -> Part:
    return Part(setting.label, figures=_requests(plots.CURVES, setting, suffix))


def _tradeoff(setting: Setting, suffix: str) -> Part | None:
    table = tradeoff_table(setting.run, suffix)
    if table is None:
        return None
    return Part(setting.label, figures=_requests(plots.TRADEOFF, setting, suffix), tables=(table,))


def _memory(setting: Setting, suffix: str) -> Part | None:
    table = longest_table(setting.run, suffix)
    return Part(setting.label, setting.context, tables=(table,)) if table else None


def _gaps(setting: Setting, suffix: str) -> Part | None:
    table = gaps_table(setting.run, suffix)
    return Part(setting.label, tables=(table,)) if table else None


def _reproduce(run: Run) -> tuple[Part, ...]:
    headings = {
        "efficiency": "Time, throughput, memory and speedup",
        "errors": "Approximation error",
        "accuracy": "Accuracy and learning curves",
    }
    found = ((heading, commands(run, table)) for table, heading in headings.items())
    return tuple(Part(heading, commands=tuple(lines)) for heading, lines in found if lines)


def _several(tables: list[Table]) -> tuple[Part, ...]:
    return (Part(tables=tuple(tables)),) if tables else ()


def _noise(run: Run) -> tuple[Part, ...]:
    table = noise_table(run)
    if table is None:
        return ()
    figures = tuple(Request(plot, run, plot.name, "") for plot in plots.NOISE)
    return (Part(sentences=tuple(noise_sentences(run)), figures=figures, tables=(table,)),)


def _literature(run: Run) -> Part:
    tasks = {str(task) for task in run.accuracy["task"]}
    return Part(sentences=tuple(caveats()), tables=tuple(literature_tables(run.methods, tasks)))


def _whole(table: Table | None) -> tuple[Part, ...]:
    return (Part(tables=(table,)),) if table else ()
