"""Figures to files: PNG, SVG and CSV beside the page, and the SVG that stands in it."""

from __future__ import annotations

import base64
import multiprocessing
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from tqdm import tqdm

from reports.charts import Chart
from reports.load import Run
from reports.plots.base import Plot
from reports.style import PNG_DPI

#: Neither dates nor versions of tools, so that the same CSV files give the same bytes.
_PNG_METADATA = {"Software": None}
_SVG_METADATA = {"Date": None, "Creator": None}
#: Characters of an SVG that stands in the page as elements.
_MOST_INLINE = 400_000


@dataclass(frozen=True)
class Request:
    """A figure to draw: of which part of the run, and under which name."""

    plot: Plot
    run: Run
    name: str
    setting: str


@dataclass(frozen=True)
class Drawn:
    """A figure on disk, its SVG for the page, and its interactive twins."""

    name: str
    title: str
    caption: str
    alt: str
    svg: str
    charts: tuple[Chart, ...] = ()


@contextmanager
def drawing(requests: Sequence[Request], folder: Path) -> Iterator[Callable[[], dict[str, Drawn]]]:
    """Draw the figures into `folder` while the block runs; what it gets waits for them.

    By name, without those for which the run has nothing to show. Several are drawn at a time, in processes of
    their own, which get `requests` by being forked.
    """
    bar = partial(tqdm, total=len(requests), desc="figures", unit="figure", leave=False, disable=None)
    with _side_by_side(requests) as each:
        files = each(partial(_file, folder), range(len(requests)))

        def drawn() -> dict[str, Drawn]:
            found = (_drawn(*pair) for pair in bar(zip(requests, files, strict=True)))
            return {figure.name: figure for figure in found if figure is not None}

        yield drawn


#: What the processes that draw have of the one that started them.
_requests: Sequence[Request] = ()


@contextmanager
def _side_by_side(requests: Sequence[Request]) -> Iterator[Callable[..., Iterator[str | None]]]:
    """A `map` over a process a core where processes can be forked; elsewhere the one that there is."""
    global _requests
    _requests = requests
    if sys.platform != "linux" or len(requests) < 2:
        yield map
        return
    cores = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(min(cores, len(requests)), multiprocessing.get_context("fork")) as pool:
        yield pool.map


def _file(folder: Path, index: int) -> str | None:
    """Draw and save the figure of one request; what stands in the page, or None where there is nothing to show."""
    request = _requests[index]
    figure = request.plot.draw(request.run)
    if figure is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / request.name
    _save(figure, path)
    plt.close(figure)
    path.with_suffix(".csv").write_text(
        request.plot.data(request.run).to_csv(index=False, lineterminator="\n"), encoding="utf-8"
    )
    return embedded(path)


def _drawn(request: Request, svg: str | None) -> Drawn | None:
    if svg is None:
        return None
    title = f"{request.plot.title}: {request.setting}" if request.setting else request.plot.title
    charts = tuple(chart for make in request.plot.charts if (chart := make(request.run)) is not None)
    return Drawn(request.name, title, request.plot.caption, f"{title}. {request.plot.caption}", svg, charts)


def _save(figure: Figure, path: Path) -> None:
    """PNG and SVG. Laid out once and drawn once each, where `savefig` would do both twice."""
    # Letters are wider here than at 100 dpi, where hinting narrows them: a layout made there cuts names off.
    figure.set_dpi(PNG_DPI)
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")
    FigureCanvasSVG(figure).print_svg(path.with_suffix(".svg"), metadata=_SVG_METADATA)  # type: ignore[no-untyped-call]
    figure.set_dpi(PNG_DPI)
    FigureCanvasAgg(figure).print_png(path.with_suffix(".png"), metadata=_PNG_METADATA)  # type: ignore[no-untyped-call]


def embedded(path: Path) -> str:
    """The figure at `path` for the page: the SVG's elements, or the PNG where they are too many for a browser."""
    svg = path.with_suffix(".svg").read_text(encoding="utf-8")
    if len(svg) <= _MOST_INLINE:
        return inline(svg, path.name)
    data = base64.b64encode(path.with_suffix(".png").read_bytes()).decode()
    # The page names the figure around it.
    return f'<img alt="" src="data:image/png;base64,{data}">'


def inline(svg: str, name: str) -> str:
    """An SVG file as an element of a page: no prolog, and ids that no other figure has."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    # The page names the figure; a screen reader should not walk through its strokes.
    return svg.replace("<svg", '<svg aria-hidden="true" focusable="false"', 1)
