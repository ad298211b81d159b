"""Figures to files: PNG, SVG and CSV beside the page, and the SVG that stands in it."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

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


def render(request: Request, folder: Path) -> Drawn | None:
    """Draw one figure into `folder`; None where the run has nothing to show in it."""
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
    title = f"{request.plot.title}: {request.setting}" if request.setting else request.plot.title
    svg = embedded(path)
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
