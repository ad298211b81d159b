"""A report over 100,000 rows: CPU time and memory of the command, and how soon its page is drawn.

Wants a quiet machine:  ATTNBENCH_TIMING=1 python -m pytest tests/reports/test_report_speed.py -s
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from large_run import long_run, wide_run
from synthetic_run import Tables

pytestmark = pytest.mark.skipif(
    "ATTNBENCH_TIMING" not in os.environ, reason="wants a quiet machine: ATTNBENCH_TIMING=1"
)

MOST_SECONDS = 30.0
MOST_GIB = 2.0
MOST_SECONDS_DRAWN = 2.0


@pytest.mark.parametrize("make", [long_run, wide_run])
def test_a_report_over_a_hundred_thousand_rows(make: Callable[[], Tables], tmp_path: Path) -> None:
    tables = make()
    count = sum(map(len, tables.rows.values()))
    assert count >= 99_000
    folder, out = tables.write(tmp_path / "run"), tmp_path / "out"
    start = time.perf_counter()
    child = os.posix_spawn(
        sys.executable, [sys.executable, "-m", "reports", str(folder), "--out", str(out)], os.environ
    )
    _, status, usage = os.wait4(child, 0)
    wall = time.perf_counter() - start
    assert status == 0
    page = out / "index.html"
    peak = usage.ru_maxrss / (2**20 if sys.platform == "linux" else 2**30)
    cpu = usage.ru_utime + usage.ru_stime
    drawn = _drawn(page)
    print(
        f"\n{make.__name__}, {count:,} rows: {wall:.1f} s, {cpu:.1f} s of CPU, peak {peak:.2f} GiB, page of "
        f"{page.stat().st_size / 1e6:.1f} MB, first chart drawn after {drawn:.2f} s"
    )
    assert wall < MOST_SECONDS
    assert peak < MOST_GIB
    assert drawn < MOST_SECONDS_DRAWN


def _drawn(page: Path) -> float:
    """Seconds from opening `page` to its first chart in headless Chromium."""
    from test_browser import CHROMIUM, FLAGS, PATIENCE_MS, playwright

    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        opened = browser.new_page()
        opened.set_default_timeout(PATIENCE_MS)
        opened.add_init_script(
            "const look = () => { if (document.querySelector('.panels .series')) window.drawn = performance.now();"
            " else requestAnimationFrame(look); }; look();"
        )
        # A chart is drawn once it comes near.
        opened.goto(f"{page.as_uri()}#scaling", wait_until="commit")
        opened.wait_for_function("window.drawn")
        seconds = float(opened.evaluate("window.drawn")) / 1000
        browser.close()
    return seconds
