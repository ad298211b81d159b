"""`bench/compare.py`: two folders go to the reports; two commits are checked out, run and compared."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench import compare

ROOT = Path(__file__).resolve().parents[2]
LARGER = """
import torch
small = Linear.forward
def large(*arguments, **named):
    buffer = torch.ones(2**22)
    return small(*arguments, **named)
Linear.forward = large
"""
TINY = ["method=linear", "seq_len=64", "heads=2", "measure.passes=[memory]"]


def git(repository: Path, *arguments: str) -> str:
    author = ["-c", "user.name=Test", "-c", "user.email=test@localhost"]
    ran = subprocess.run(["git", *author, *arguments], cwd=repository, capture_output=True, text=True, check=True)
    return ran.stdout.strip()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This harness in a repository of two commits; in the second, linear attention takes 16 MiB more."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    place = tmp_path_factory.mktemp("repository")
    for package in ("bench", "methods", "tasks", "reports", "conf"):
        ignored = shutil.ignore_patterns("__pycache__", "published", "build")
        shutil.copytree(ROOT / package, place / package, ignore=ignored)
    (place / ".gitignore").write_text("__pycache__/\nresults/\n")
    git(place, "init", "--quiet")
    git(place, "add", ".")
    git(place, "commit", "--quiet", "--message", "as it is")
    with (place / "methods" / "linear.py").open("a") as source:
        source.write(LARGER)
    git(place, "commit", "--quiet", "--all", "--message", "larger")
    return place


def ran(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "bench/compare.py", *arguments]
    return subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)


@pytest.mark.timeout(600)
def test_a_commit_that_needs_more_memory_is_found(repository: Path) -> None:
    found = ran(repository, "HEAD~1", "HEAD", *TINY, "--threshold", "0.5")
    assert found.returncode == 1, found.stdout + found.stderr
    assert "before: " in found.stdout
    assert "worse  linear N=64 forward" in found.stdout
    assert " peak " in found.stdout
    assert "1 by more than 50%" in found.stdout
    assert len(git(repository, "worktree", "list").splitlines()) == 1  # the checkouts are gone
    assert git(repository, "status", "--porcelain") == ""


def test_two_folders_go_to_the_reports(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    published = ROOT / "results" / "reference-quick"
    assert compare.main([str(published), str(published), "--shape"]) == 0
    assert "0 gone, 0 new" in capfd.readouterr().out
    assert compare.main([str(published), str(tmp_path / "none")]) == 2
    assert "no such folder" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "expected two folders of runs, or two commits, first"),
        (["HEAD", "method=linear"], "expected two folders of runs, or two commits, first"),
        (["HEAD", "nonsense", "method=linear"], "nonsense: neither a folder of results nor a commit"),
        (["HEAD", "HEAD"], "what shall the two commits measure?"),
        (["HEAD", "HEAD", "method=linear", "run=mine"], "run: chosen here"),
        (["HEAD", "HEAD", "method=linear", "--thresold=1"], "--thresold: no such option"),
    ],
)
def test_bad_command_lines_are_one_line(
    arguments: list[str],
    complaint: str,
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(compare, "ROOT", repository)
    assert compare.main(arguments) == 2
    said = capsys.readouterr().err
    assert complaint in said
    assert said.count("\n") == 1


def test_what_a_commit_refuses_is_said_and_leaves_nothing(repository: Path) -> None:
    found = ran(repository, "HEAD~1", "HEAD", "method=nonsense")
    assert found.returncode == 2
    assert "nonsense" in found.stderr
    assert "before: bench/run.py of" in found.stderr
    assert len(git(repository, "worktree", "list").splitlines()) == 1
