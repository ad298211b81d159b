"""Compare two result sets, or two commits: which cells changed beyond their noise, by how much.

    python bench/compare.py results/before results/after                  two runs that were measured
    python bench/compare.py main my-branch sweep=smoke                    two commits: measures both, then compares
    python bench/compare.py HEAD~1 HEAD method=linear seq_len=4096 --threshold 0.1

Options are those of `python -m reports.compare`: --threshold, --ignore, --shape, --part, --all. Two commits are
checked out beside the working tree, whose own changes do not count; each runs what is asked for with its own
bench/run.py and this interpreter. The rows stay in results/compare-A-B-before and -after; the same command goes on
from there, `rerun=all` measures anew.

Exit code 0: nothing is worse by more than the threshold. 1: something is. 2: there is nothing to compare.
130: interrupted.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# see bench/run.py
sys.path[:1] = [str(Path(__file__).resolve().parents[1]), str(Path.cwd())]

from bench.errors import BenchError, Refused  # noqa: E402
from bench.handover import ROOT, hand_over  # noqa: E402
from bench.process import end_as_if_interrupted  # noqa: E402

REPORT = "reports.compare"
OPTIONS = ("--threshold", "--ignore", "--shape", "--part", "--all")
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    end_as_if_interrupted()
    if len(given) < 2 or any(item.startswith("-") or "=" in item for item in given[:2]):
        if "-h" in given or "--help" in given:
            print(__doc__)
            return 0
        print("attnbench: expected two folders of runs, or two commits, first", file=sys.stderr)
        return 2
    try:
        if any(Path(side).is_dir() for side in given[:2]):
            return hand_over(REPORT, given)
        overrides = [item for item in given[2:] if "=" in item and not item.startswith("-")]
        options = [item for item in given[2:] if item not in overrides]
        for option in (item.partition("=")[0] for item in options if item.startswith("-")):
            if option not in OPTIONS:
                raise Refused(f"{option}: no such option; there are {', '.join(OPTIONS)}")
        return hand_over(REPORT, [*map(str, measured(given[:2], overrides)), *options])
    except BenchError as error:
        print(f"attnbench: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("attnbench: interrupted; finished cells are kept, the same command goes on", file=sys.stderr)
        return INTERRUPTED


def measured(names: Sequence[str], overrides: Sequence[str]) -> list[Path]:
    """Run the same command line at two commits; returns the folders with the rows. Raises BenchError."""
    commits = [_commit(name) for name in names]
    for key in ("run", "results_dir", "shard"):
        if any(item.startswith(f"{key}=") for item in overrides):
            raise Refused(f"{key}: chosen here, so that each commit has its own rows")
    if not overrides:
        raise Refused("what shall the two commits measure? sweep=smoke, or method=linear seq_len=4096")
    if _git("status", "--porcelain", "--untracked-files=no"):
        print("attnbench: changes that are not committed are not compared", file=sys.stderr)
    results = Path("results").resolve()
    run = f"compare-{commits[0][:9]}-{commits[1][:9]}"
    folders = []
    for commit, side in zip(commits, ("before", "after"), strict=True):
        print(f"{side}: {_git('log', '-1', '--format=%h %s', commit)}", flush=True)
        with _checked_out(commit) as tree:
            ours = [f"results_dir={results}", f"run={run}-{side}"]
            policy = [] if any(item.startswith("rerun=") for item in overrides) else ["rerun=none"]
            command = [sys.executable, str(tree / "bench" / "run.py"), *overrides, *policy, *ours]
            code = subprocess.run(command, cwd=tree, check=False).returncode  # an older one may import from there
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        if code not in (0, 1):
            raise Refused(f"{side}: bench/run.py of {commit[:9]} ended with code {code}; its reason is above")
        folders.append(results / f"{run}-{side}")
    return folders


@contextmanager
def _checked_out(commit: str) -> Iterator[Path]:
    """A working tree of a commit, for as long as the block runs."""
    with tempfile.TemporaryDirectory(prefix="attnbench-") as folder:
        tree = Path(folder) / "tree"
        _git("worktree", "add", "--detach", str(tree), commit)
        try:
            yield tree
        finally:
            _git("worktree", "remove", "--force", str(tree))


def _commit(name: str) -> str:
    """The id of what a user calls a commit. Raises Refused."""
    try:
        return _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    except Refused:
        raise Refused(
            f"{name}: neither a folder of results nor a commit; give two folders, or two commits"
        ) from None


def _git(*arguments: str) -> str:
    """What a git command in our repository prints. Raises Refused where it fails or there is no git."""
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise Refused("commits cannot be compared: git is not installed") from error
    if done.returncode:
        raise Refused(f"git {arguments[0]}: {' '.join(done.stderr.split())}")
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
