"""What the page says, in its order: from the answer over scaling and quality to machine and context."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property

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
class Content:
    """What is said of one setting."""

    sentences: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    commands: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """What belongs to one setting; `hardware`: where it was measured.

    Its content is made when it is asked for, since the figures can be drawn meanwhile.
    """

    heading: str = ""
    context: str = ""
    figures: tuple[Request, ...] = ()
    make: Callable[[], Content] = Content
    hardware: tuple[str, ...] = ()

    @cached_property
    def content(self) -> Content:
        """The sentences, tables and commands."""
        return self.make()

    @property
    def tables(self) -> tuple[Table, ...]:
        """The tables of the content."""
        return self.content.tables

    @property
    def sentences(self) -> tuple[str, ...]:
        """The sentences of the content."""
        return self.content.sentences


@dataclass(frozen=True)
class Section:
    """A chapter of the page, of the parts that may stand in it; `empty` says what is missing where none does."""

    anchor: str
    title: str
    outline: tuple[Part, ...] = ()
    empty: str = ""

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """Those that have something to show."""
        return tuple(part for part in self.outline if part.figures or part.content != Content())

    @property
    def figures(self) -> tuple[Request, ...]:
        """The figures of all parts."""
        return tuple(request for part in self.outline for request in part.figures)


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
            (_whole(lambda: peers_tables(run)),),
            "This run measured no third-party implementation. To measure those that are installed: make peers",
        ),
        Section(
            "failures",
            "What failed, and what is missing",
            (_whole(lambda: (failures_table(run),)), *_each(costs, _gaps)),
            "Every cell ended well, and every method was measured at every length.",
        ),
        Section("noise", "How much is noise?", _noise(run), "No cell timed SDPA against itself; add method=sdpa."),
        Section(
            "environment",
            "On which machine",
            (_whole(lambda: (runs_table(run), environments_table(run), backends_table(run))),),
        ),
        Section("reproduce", "How to reproduce", _reproduce(run)),
        Section("literature", "What was published (context, not measured here)", (_literature(run),)),
    ]


def _missing(what: str, files: str, option: str = "") -> str:
    example = f"python bench/run.py {option}" if option else HOW_TO_RUN
    return f"This run measured no such thing: {files} has no rows with {what}. To measure: {example}"


def _each(settings: list[Setting], build: Callable[[Setting, str], Part]) -> tuple[Part, ...]:
    parts = ((setting, build(setting, f"-{setting.slug}" if setting.slug else "")) for setting in settings)
    return tuple(replace(part, hardware=_hardware(setting)) for setting, part in parts)


def _hardware(setting: Setting) -> tuple[str, ...]:
    """Where the rows of the setting's table were measured, as the filters call it."""
    return tuple(dict.fromkeys(hardware(setting.run, getattr(setting.run, setting.table))))


def _requests(group: tuple[Plot, ...], setting: Setting, suffix: str) -> tuple[Request, ...]:
    return tuple(Request(plot, setting.run, f"{plot.name}{suffix}", setting.label) for plot in group)


def _content(*tables: Table | None, sentences: Iterable[str] = ()) -> Content:
    return Content(tuple(sentences), tuple(table for table in tables if table))


def _answer(setting: Setting, suffix: str) -> Part:
    def make() -> Content:
        places = contenders(setting.run)
        found = answers(setting.run, places)
        if not found:
            return Content()
        tables = (within_table(setting.run, places, suffix), answer_table(found, suffix))
        return _content(*tables, sentences=sentences(found))

    return Part(setting.label, setting.context, make=make)


def _most_accurate(setting: Setting, _: str) -> Part:
    heading = f"accuracy, {setting.label}" if setting.label else "accuracy"
    return Part(heading, make=lambda: _content(sentences=accuracy_sentences(setting.run)))


def _scaling(setting: Setting, suffix: str) -> Part:
    figures = _requests(plots.SCALING, setting, suffix)
    return Part(setting.label, setting.context, figures, lambda: _content(*scaling_tables(setting.run, suffix)))


def _error(setting: Setting, suffix: str) -> Part:
    figures = _requests(plots.ERROR, setting, suffix)
    return Part(setting.label, setting.context, figures, lambda: _content(error_table(setting.run, suffix)))


def _trained_error(setting: Setting, suffix: str) -> Part:
    return Part(setting.label, setting.context, make=lambda: _content(trained_error_table(setting.run, suffix)))


def _accuracy(setting: Setting, suffix: str) -> Part:
    def make() -> Content:
        return _content(accuracy_table(setting.run, suffix), parameters_table(setting.run, suffix))

    return Part(setting.label, figures=_requests(plots.ACCURACY, setting, suffix), make=make)


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


def _tradeoff(setting: Setting, suffix: str) -> Part:
    table = tradeoff_table(setting.run, suffix)
    figures = _requests(plots.TRADEOFF, setting, suffix) if table else ()
    return Part(setting.label, figures=figures, make=lambda: _content(table))


def _memory(setting: Setting, suffix: str) -> Part:
    return Part(setting.label, setting.context, make=lambda: _content(longest_table(setting.run, suffix)))


def _gaps(setting: Setting, suffix: str) -> Part:
    return Part(setting.label, make=lambda: _content(gaps_table(setting.run, suffix)))


def _reproduce(run: Run) -> tuple[Part, ...]:
    headings = {
        "efficiency": "Time, throughput, memory and speedup",
        "errors": "Approximation error",
        "accuracy": "Accuracy and learning curves",
    }

    def part(table: str) -> Part:
        return Part(headings[table], make=lambda: Content(commands=tuple(commands(run, table))))

    return tuple(map(part, headings))


def _noise(run: Run) -> tuple[Part, ...]:
    table = noise_table(run)
    figures = tuple(Request(plot, run, plot.name, "") for plot in plots.NOISE) if table else ()
    return (Part(figures=figures, make=lambda: _content(table, sentences=noise_sentences(run) if table else ())),)


def _literature(run: Run) -> Part:
    tasks = {str(task) for task in run.accuracy["task"]}
    return _whole(lambda: literature_tables(run.methods, tasks), caveats)


def _whole(tables: Callable[[], Iterable[Table | None]], said: Callable[[], Iterable[str]] = tuple) -> Part:
    return Part(make=lambda: _content(*tables(), sentences=said()))
