"""The page in a real browser: filters are clicked, and what is drawn is checked against the CSV files.

Needs the extra `browser` (playwright) and Chromium: the one that ATTNBENCH_CHROMIUM names, else one on the path.
"""

from __future__ import annotations

import csv
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from synthetic_run import Tables, costs, synthetic_run

from reports.__main__ import publish

playwright = pytest.importorskip("playwright.sync_api", reason="the extra `browser` is not installed")
CHROMIUM = os.environ.get("ATTNBENCH_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path, none in ATTNBENCH_CHROMIUM")

#: Every mark of a chart: its series, where it stands in its panel, the panel's title, and its class.
_MARKS = """figure => [...document.querySelectorAll(`#figure-${figure} .panels svg`)].flatMap(panel =>
  [...panel.querySelectorAll('.mark')].map(mark => {
    const [x, y] = mark.getAttribute('transform').match(/-?[\\d.]+/g).map(Number);
    return {series: mark.parentNode.dataset.series, panel: panel.querySelector('.title').textContent,
            kind: mark.getAttribute('class').split(' ')[1], x, y};
  }))"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    tables = synthetic_run()
    there = [row | {"env_id": "envB", "threads": 4} for row in costs(("sdpa", "linformer"))]
    tables.rows["efficiency"] += there
    publish([tables.write(folder / "run")], folder / "out")
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser: Any, home: Path) -> Iterator[Any]:
    """The page, from disk and without a network; a test fails with any error of its script."""
    context = browser.new_context(offline=True, accept_downloads=True)
    opened = context.new_page()
    wrong: list[str] = []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on(
        "request", lambda request: wrong.append(request.url) if not request.url.startswith("file:") else None
    )
    opened.goto((home / "out" / "index.html").as_uri())
    opened.wait_for_selector(".mark")
    yield opened
    context.close()
    assert not wrong


def rows(home: Path) -> list[dict[str, str]]:
    """Costs of cores on the first machine, which has the figure `time-enva...`."""
    with (home / "run" / "efficiency.csv").open(newline="") as handle:
        found = list(csv.DictReader(handle))
    return [row for row in found if row["level"] == "core" and row["env_id"] == "envA"]


def figure(page: Any, name: str = "time") -> str:
    """The name of the first machine's figure."""
    names = page.evaluate("[...document.querySelectorAll('figure[data-chart]')].map(f => f.dataset.chart)")
    return str(next(found for found in names if found.startswith(f"{name}-") and "enva" in found))


def expected(found: list[dict[str, str]]) -> set[tuple[str, str, str]]:
    """(panel, method, kind of mark) of each row, as many as there are lengths."""
    kinds = {"ok": "fill"}
    hollow = [row for row in found if row["degenerate"] == "True"]
    return {
        (
            row["mode"],
            row["method"] + ":" + row["seq_len"],
            "hollow" if row in hollow else kinds.get(row["status"], "failed"),
        )
        for row in found
    }


def drawn(page: Any, name: str, found: list[dict[str, str]]) -> set[tuple[str, str, str]]:
    """The same of what is drawn; lengths by rank of their places, which must be as many as in the rows."""
    marks = page.evaluate(_MARKS, name)
    lengths = sorted({int(row["seq_len"]) for row in found})
    places = sorted({round(mark["x"], 1) for mark in marks})
    by_place = dict(zip(places, lengths, strict=True))
    return {
        (mark["panel"], f"{mark['series'].split(' · ')[0]}:{by_place[round(mark['x'], 1)]}", mark["kind"])
        for mark in marks
    }


def choose(page: Any, name: str, value: str) -> None:
    """Click one box of a filter."""
    box = page.locator(f'#filters input[name="{name}"][value="{value}"]')
    menu = page.locator(f'#filters details[data-filter="{name}"]')
    if menu.count() and menu.get_attribute("open") is None:
        menu.locator("summary").click()
    box.locator("xpath=..").click()


def test_what_is_drawn_is_what_was_measured(page: Any, home: Path) -> None:
    name, found = figure(page), rows(home)
    assert drawn(page, name, found) == expected(found)
    # On two logarithmic axes: one straight line takes values to pixels in every panel.
    marks = [mark for mark in page.evaluate(_MARKS, name) if mark["kind"] != "failed"]
    times = {(row["mode"], row["method"], int(row["seq_len"])): row["latency_ms"] for row in found}
    lengths = sorted({int(row["seq_len"]) for row in found})
    places = sorted({round(mark["x"], 1) for mark in page.evaluate(_MARKS, name)})
    pairs = [
        (
            math.log(
                float(
                    times[
                        mark["panel"], mark["series"].split(" · ")[0], lengths[places.index(round(mark["x"], 1))]
                    ]
                )
            ),
            mark["y"],
        )
        for mark in marks
    ]
    (v0, y0), (v1, y1) = min(pairs), max(pairs)
    for value, y in pairs:
        assert y == pytest.approx(y0 + (y1 - y0) * (value - v0) / (v1 - v0), abs=0.05)
    assert y1 < y0  # up is more


def test_filters_leave_their_rows_and_no_others(page: Any, home: Path) -> None:
    name, found = figure(page), rows(home)
    choose(page, "method", "full")
    left = [row for row in found if row["method"] != "full"]
    assert drawn(page, name, left) == expected(left)
    choose(page, "mode", "train")
    left = [row for row in left if row["mode"] == "forward"]
    assert drawn(page, name, left) == expected(left)
    page.select_option('select[name="from"]', "1024")
    page.select_option('select[name="to"]', "4096")
    left = [row for row in left if 1024 <= int(row["seq_len"]) <= 4096]
    assert drawn(page, name, left) == expected(left)
    choose(page, "budget", "window 256")
    left = [row for row in left if row["method"] != "longformer"]
    assert drawn(page, name, left) == expected(left)
    # The view can be cited: a new page of the same address shows the same.
    assert "?" in page.url
    again = page.context.new_page()
    again.goto(page.url)
    again.wait_for_selector(".mark")
    assert drawn(again, name, left) == expected(left)
    again.close()
    page.click('button[name="reset"]')
    assert drawn(page, name, found) == expected(found)
    assert "?" not in page.url


def test_a_range_of_lengths_cannot_be_turned_around(page: Any) -> None:
    page.select_option('select[name="to"]', "512")
    page.select_option('select[name="from"]', "2048")
    assert page.eval_on_selector('select[name="to"]', "select => select.value") == "2048"


def test_task_and_hardware(page: Any) -> None:
    titles = "[...document.querySelectorAll('#figure-accuracy .title')].map(t => t.textContent)"
    assert page.evaluate(titles) == ["image", "listops", "text"]
    choose(page, "task", "text")
    assert page.evaluate(titles) == ["image", "listops"]
    shown = "[...document.querySelectorAll('#scaling .part')].filter(p => !p.hidden).length"
    both = page.evaluate(shown)
    boxes = page.eval_on_selector_all('#filters input[name="hardware"]', "boxes => boxes.map(box => box.value)")
    choose(page, "hardware", next(box for box in boxes if "envB" in box))
    assert page.evaluate(shown) == both - 1
    assert page.locator("#scaling").get_by_text("envB").first.is_hidden()


def test_a_failure_stays_with_its_reason_by_mouse_and_by_keyboard(page: Any) -> None:
    name = figure(page)
    mark = page.locator(f"#figure-{name} .mark.failed").first
    mark.scroll_into_view_if_needed()
    box = mark.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert "4096 ran out of memory" in page.inner_text("#tip")
    page.mouse.move(2, 2)
    assert page.locator("#tip").is_hidden()
    panel = page.locator(f"#figure-{name} .panels svg").first
    panel.focus()
    page.keyboard.press("Home")
    first = page.inner_text("#tip")
    for word in ("full", "256", "20 rounds", "["):
        assert word in first
    page.keyboard.press("ArrowRight")
    assert "512" in page.inner_text("#tip")
    page.keyboard.press("ArrowDown")
    assert "sdpa" in page.inner_text("#tip")
    page.keyboard.press("Enter")
    marked = page.locator(f"#figure-{name} tr.marked")
    assert marked.count() == 1
    assert marked.get_attribute("data-cell").startswith("sdpa-")
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()


def test_rows_behind_a_chart_and_their_download(page: Any, home: Path, tmp_path: Path) -> None:
    name, found = figure(page), rows(home)
    choose(page, "method", "linformer")
    left = [row for row in found if row["method"] != "linformer"]
    details = page.locator(f"#figure-{name} details.rows")
    details.locator("summary").click()
    cells = details.locator("tbody tr").evaluate_all("rows => rows.map(row => row.dataset.cell)")
    assert sorted(cells) == sorted(row["cell_id"] for row in left)
    with page.expect_download() as waiting:
        details.locator("button").click()
    waiting.value.save_as(tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(newline="") as handle:
        saved = list(csv.DictReader(handle))
    originals = {row["cell_id"]: row for row in left}
    assert len(saved) == len(left)
    for row in saved:
        original = originals[row["cell_id"]]
        assert row["reason"] == original["reason"]
        assert row["latency_ms"] == original["latency_ms"] or float(row["latency_ms"]) == float(
            original["latency_ms"]
        )


def test_the_finder_answers_from_the_table(page: Any) -> None:
    form = page.locator("form.finder").first
    form.locator("select").nth(1).select_option("8K")
    assert form.locator("output").inner_text().startswith("linformer")
    form.locator("select").nth(1).select_option("256")
    assert form.locator("output").inner_text().startswith("sdpa")


def test_nothing_left_says_so(page: Any) -> None:
    page.click('.methods button[data-all=""]')
    assert "The filters leave nothing of this chart." in page.inner_text(f"#figure-{figure(page)}")


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_sticks_out(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.wait_for_timeout(200)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_static_figures_without_a_script_and_on_paper(browser: Any, page: Any, home: Path) -> None:
    name = figure(page)
    assert page.locator(f"#figure-{name} .plot").is_hidden()
    page.emulate_media(media="print")
    assert page.locator(f"#figure-{name} .plot").is_visible()
    assert page.locator(f"#figure-{name} .interactive").is_hidden()
    context = browser.new_context(java_script_enabled=False)
    plain = context.new_page()
    plain.goto((home / "out" / "index.html").as_uri())
    assert plain.locator(f"#figure-{name} .plot").is_visible()
    assert plain.locator("#filters").is_hidden()
    context.close()


def test_charts_are_drawn_soon(browser: Any, tmp_path: Path) -> None:
    tables = Tables()
    tables.rows["efficiency"] = costs(("sdpa", "linformer"))
    out = publish([tables.write(tmp_path / "run")], tmp_path / "out")
    opened = browser.new_page()
    opened.goto(out.as_uri())
    opened.wait_for_selector(".mark")
    assert opened.evaluate("performance.now()") < 10_000  # on a busy machine; on an idle one it is well below 2 s
    opened.close()
