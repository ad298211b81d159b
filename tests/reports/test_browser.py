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

FLAGS = ["--no-sandbox", "--disable-quic", "--disable-background-networking"]
#: A step of a page on a machine with other work; nothing waits this long where it works.
PATIENCE_MS = 180_000

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
        started = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def page(browser: Any, home: Path) -> Iterator[Any]:
    """The page, from disk and without a network; a test fails with any error of its script."""
    context = browser.new_context(offline=True, accept_downloads=True)
    context.set_default_timeout(PATIENCE_MS)
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
    # Charts follow the width at their own pace.
    page.wait_for_function("width => document.documentElement.scrollWidth <= width", arg=width)


#: Texts in sight whose contrast with what is behind them is below WCAG AA; what is disabled is exempt there.
_FAINT = """() => {
  const parts = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = colour.map((v) => ((v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4));
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const colour = parts(getComputedStyle(node).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text; (text = walk.nextNode());) {
    const node = text.parentElement;
    if (!text.data.trim() || !node.checkVisibility() || node.closest('script, :disabled, [aria-hidden]')) continue;
    const style = getComputedStyle(node);
    const ink = parts(node.namespaceURI.endsWith('svg') ? style.fill : style.color).slice(0, 3);
    const [a, b] = [light(ink), light(ground(node).slice(0, 3))].sort((x, y) => y - x);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    if ((a + .05) / (b + .05) < (large ? 3 : 4.5)) found.push([text.data.trim().slice(0, 40), ink, ground(node)]);
  }
  return found;
}"""
#: Elements that nothing names, and controls that the keyboard does not reach.
_NAMELESS = """() => {
  const named = (node) => node.ariaLabel || node.textContent.trim() || node.labels?.length || node.title;
  const all = (selector) => [...document.querySelectorAll(selector)].filter((node) => node.checkVisibility());
  return [
    ...all('img:not([alt])'),
    ...all('svg:not([aria-hidden])').filter((node) => !node.ariaLabel),
    ...all('button, select, input, a[href], summary, [role=img], [role=region], [role=application]')
      .filter((node) => !named(node)),
    ...all('button:enabled, select, input, a[href], summary, .panels svg, .scroll')
      .filter((node) => node.tabIndex < 0),
    ...all('th:not([scope])'),
  ].map((node) => node.outerHTML.slice(0, 120));
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(page: Any, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach((node) => { node.open = true; })")
    assert page.evaluate(_FAINT) == []


def test_everything_has_a_name_and_is_reached_by_keyboard(page: Any) -> None:
    page.evaluate("document.querySelectorAll('main details').forEach((node) => { node.open = true; })")
    assert page.evaluate(_NAMELESS) == []
    # A filter by keyboard alone: from one method to the next, and off.
    page.focus('#filters input[name="method"][value="full"]')
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert not page.is_checked('#filters input[name="method"][value="sdpa"]')
    assert page.locator(f'#figure-{figure(page)} g[data-series="sdpa"]').count() == 0


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


@pytest.mark.skipif("ATTNBENCH_TIMING" not in os.environ, reason="wants a quiet machine: ATTNBENCH_TIMING=1")
def test_charts_are_drawn_soon(browser: Any, tmp_path: Path) -> None:
    tables = Tables()
    tables.rows["efficiency"] = costs(("sdpa", "linformer"))
    out = publish([tables.write(tmp_path / "run")], tmp_path / "out")
    opened = browser.new_page()
    opened.goto(out.as_uri())
    opened.wait_for_selector(".mark")
    assert opened.evaluate("performance.now()") < 2000
    opened.close()


def test_a_large_page_draws_a_chart_when_it_comes_near(
    browser: Any, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reports.page._MOST_MARKS", 10)
    large = publish([home / "run"], tmp_path / "large")
    opened = browser.new_page(viewport={"width": 1200, "height": 700})
    opened.set_default_timeout(PATIENCE_MS)
    opened.goto(f"{large.as_uri()}#scaling")
    opened.wait_for_selector(".panels .series")
    top = opened.evaluate("document.querySelector('#scaling').getBoundingClientRect().top")
    assert 0 <= top < 350, "the section that was asked for is not what one sees"
    count = "document.querySelectorAll('.chart:has(.series)').length"
    charts = int(opened.evaluate("document.querySelectorAll('.chart').length"))
    assert 1 <= opened.evaluate(count) < charts
    for place in range(charts):
        # What stands above grows when it is drawn: look again until this one is.
        opened.wait_for_function(
            "i => { const c = document.querySelectorAll('.chart')[i]; c.scrollIntoView({behavior: 'instant'});"
            " return c.querySelector('.panels .series, .empty-section') }",
            arg=place,
        )
    assert opened.evaluate(count) == charts
    opened.close()


def test_many_values_are_drawn_as_lines_alone_until_filters_leave_few(browser: Any, home: Path) -> None:
    text = (home / "out" / "index.html").read_text()
    assert text.count("static most = 3000;") == 1
    crowded = home / "out" / "crowded.html"
    crowded.write_text(text.replace("static most = 3000;", "static most = 12;"))
    opened = browser.new_page()
    opened.set_default_timeout(PATIENCE_MS)
    opened.goto(crowded.as_uri())
    name = figure(opened)
    opened.wait_for_selector(f"#figure-{name} .series path.stroke")
    assert opened.evaluate(_MARKS, name) == []
    said = opened.locator(f"#figure-{name} .chart > .caption").first
    assert "lines alone are drawn" in said.inner_text()
    opened.locator("#filters .methods button", has_text="none").click()
    choose(opened, "method", "linformer")
    found = [row for row in rows(home) if row["method"] == "linformer"]
    assert len(found) == 12
    assert drawn(opened, name, found) == expected(found)
    assert said.is_hidden()
    opened.close()
