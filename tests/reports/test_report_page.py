"""The command from end to end, on made-up runs."""

from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from synthetic_run import METHODS, Tables, cost, costs, failed, synthetic_run

from reports.__main__ import main, publish
from reports.load import ReportError

REPOSITORY = Path(__file__).parents[2]

# Started in a process of its own: other tests of the same session import torch.
_WITHOUT = """
import sys
BLOCKED = {"torch", "bench", "methods", "tasks", "hydra", "omegaconf", "datasets"}
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocker())
from reports.__main__ import main
status = main(sys.argv[1:])
assert not BLOCKED & {name.split(".")[0] for name in sys.modules}
sys.exit(status)
"""


class Page(HTMLParser):
    """Collects what a test asks of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.scripts = 0
        self.labels: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.scripts += tag == "script"
        self.ids += [found["id"]] if found.get("id") else []  # type: ignore[list-item]
        self.links += [found[name] for name in ("href", "src") if found.get(name)]  # type: ignore[misc]
        if found.get("role") == "img":
            self.labels.append(found.get("aria-label") or "")


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report made by the command, where neither torch nor the harness can be imported."""
    home = tmp_path_factory.mktemp("home")
    folder = synthetic_run().write(home / "synthetic")
    command = [sys.executable, "-c", _WITHOUT, str(folder), "--out", str(home / "report")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(home / "report" / "index.html")
    return home


def test_the_page_is_whole_without_torch(built: Path) -> None:
    report = built / "report"
    page = Page((report / "index.html").read_text())
    assert len(page.ids) == len(set(page.ids))
    for anchor in ("answer", "scaling", "error", "accuracy", "tradeoff", "failures", "noise", "environment"):
        assert anchor in page.ids
    assert len(page.labels) == 11
    assert all(len(label) > 40 for label in page.labels)
    for link in page.links:
        assert not link.startswith(("http", "//")), link
        target = link[1:] in page.ids if link.startswith("#") else (report / link).exists()
        assert target, link
    assert {path.suffix for path in (report / "figures").iterdir()} == {".png", ".svg", ".csv"}
    assert {path.suffix for path in (report / "tables").iterdir()} == {".md", ".tex", ".csv"}


def test_the_same_files_give_the_same_bytes(built: Path) -> None:
    publish([built / "synthetic"], built / "again")
    assert files(built / "again") == files(built / "report")


def test_building_again_replaces_the_report(built: Path) -> None:
    folder = Tables()
    folder.rows["efficiency"] = [cost("sdpa", 512)]
    source = folder.write(built / "tiny")
    publish([source], built / "replaced")
    (built / "replaced" / "figures" / "old.png").write_text("old")
    publish([source], built / "replaced")
    assert not (built / "replaced" / "figures" / "old.png").exists()
    assert not list(built.glob(".replaced*"))


def test_a_failed_build_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = Tables()
    tables.rows["efficiency"] = [cost("sdpa", 512)]
    source = tables.write(tmp_path / "run")
    publish([source], tmp_path / "out")
    before = files(tmp_path / "out")

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no ink")

    monkeypatch.setattr("reports.page._html", broken)
    with pytest.raises(RuntimeError, match="no ink"):
        publish([source], tmp_path / "out")
    assert files(tmp_path / "out") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]


def test_a_folder_that_is_no_report_is_not_replaced(tmp_path: Path) -> None:
    tables = Tables()
    tables.rows["efficiency"] = [cost("sdpa", 512)]
    source = tables.write(tmp_path / "run")
    with pytest.raises(ReportError, match=r"holds efficiency\.csv, which is no part of a report"):
        publish([source], source)


def test_names_and_reasons_cannot_break_out(tmp_path: Path) -> None:
    name, reason = "<script>alert(1)</script> $x_1$ & 50%", "</td><script>alert(2)</script> a_b & c\nsecond | line"
    tables = Tables()
    tables.rows["efficiency"] = [
        cost("sdpa", 512),
        cost(name, 512),
        cost(name, 1024),
        failed(cost(name, 2048), "error", reason),
    ]
    page = publish([tables.write(tmp_path / "run")], tmp_path / "out").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert Page(page).scripts == page.count('<script type="application/json"') + 1  # data, and the one that draws
    tex = (tmp_path / "out" / "tables" / "failures.tex").read_text()
    assert r"a\_b \& c second \textbar{} line" in tex
    assert r"\$x\_1\$ \& 50\%" in tex
    rows = (tmp_path / "out" / "tables" / "failures.md").read_text().splitlines()
    assert sum(line.startswith("|") for line in rows) == 3


def test_one_method_and_no_other_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = Tables()
    tables.rows["efficiency"] = costs(("performer",))
    assert main([str(tables.write(tmp_path / "run")), "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "index.html").read_text()
    assert "errors.csv has no rows" in page
    assert "accuracy.csv has no rows" in page
    assert "Every cell ended well, and every method was measured at every length." in page
    assert "No cell timed SDPA against itself" in page


def test_all_failed(tmp_path: Path) -> None:
    tables = Tables()
    tables.rows["efficiency"] = [failed(row, "timeout", "no result after 1 s") for row in costs(("sdpa", "full"))]
    out = tmp_path / "out"
    page = publish([tables.write(tmp_path / "run")], out).read_text()
    assert "No cell of this run ended well" in page
    assert "no result after 1 s" in page
    assert not (out / "figures").exists()


def test_two_environments_get_a_banner_and_figures_of_their_own(tmp_path: Path) -> None:
    tables = Tables()
    here = costs(("sdpa", "linformer"))
    tables.rows["efficiency"] = here + [row | {"env_id": "envB", "device": "cuda"} for row in here]
    out = tmp_path / "out"
    page = publish([tables.write(tmp_path / "run")], out).read_text()
    assert "2 environments (envA and envB)" in page
    assert len(list((out / "figures").glob("time-*.svg"))) == 2


def test_sixty_methods(tmp_path: Path) -> None:
    tables = Tables()
    tables.rows["efficiency"] = [cost(f"method{n}", length) for n in range(60) for length in (512, 1024)]
    page = publish([tables.write(tmp_path / "run")], tmp_path / "out").read_text()
    assert "method59" in page


def test_every_method_of_the_fixture_is_on_the_page(built: Path) -> None:
    page = (built / "report" / "index.html").read_text()
    for method in METHODS:
        assert method in page
