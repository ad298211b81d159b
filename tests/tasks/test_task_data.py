from __future__ import annotations

import errno
import importlib
import subprocess
import sys
import warnings
from pathlib import Path

import datasets
import numpy as np
import pytest

from tasks import data, seeds
from tasks.data import Table, _from_arrow, _to_datasets, cache_root, cached
from tasks.listops import ListOps

SMALL = {"min_length": 4, "max_length": 40, "max_depth": 4, "max_args": 5}
FEW = {"train_examples": 60, "dev_examples": 20, "test_examples": 20}


class Maker:
    """Builds a table and counts how often it had to."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> Table:
        self.calls += 1
        return {
            "tokens": np.arange(12, dtype=np.uint8).reshape(4, 3),
            "targets": np.array([3, 1, 2, 0]),
            "lengths": np.array([1, 2, 3, 3], dtype=np.int16),
        }


def get(maker: Maker, **identity: object) -> Table:
    return cached("things", {"seed": 0, **identity}, ["tasks.seeds"], maker)


def same(a: Table, b: Table) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


def entry(cache: Path) -> Path:
    (folder,) = [p for p in (cache / "things").iterdir() if p.is_dir()]
    return folder


def test_second_time_reads_what_the_first_wrote(cache: Path) -> None:
    maker = Maker()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = get(maker), get(maker)
    assert maker.calls == 1
    assert same(first, second)
    assert sorted(p.suffix for p in (cache / "things").iterdir() if p.is_file()) in ([], [".lock"])
    assert len(datasets.load_from_disk(str(entry(cache)))) == 4


def test_columns_longer_than_arrow_can_count_are_cut(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Path-X has 3.3e9 pixels in a column."""
    monkeypatch.setattr("tasks.data.ARROW_NUMBERS", 7)  # two rows of three
    maker = Maker()
    parts = _to_datasets(maker()).data.column("tokens").chunks
    assert [len(part) for part in parts] == [2, 2]
    assert np.array_equal(_from_arrow(parts), maker()["tokens"])
    assert same(get(maker), get(maker))


def test_parameters_and_seed_tell_entries_apart() -> None:
    maker = Maker()
    for identity in ({}, {"seed": 1}, {"n": 1}, {"n": 1.5}):
        get(maker, **identity)
    assert maker.calls == 4


def test_editing_the_generator_never_returns_old_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trap of `datasets`' own cache: a body edited in an importable module goes unseen."""
    monkeypatch.syspath_prepend(tmp_path)
    source = "import numpy as np\ndef build():\n    return {'tokens': np.full((2, 2), %d)}\n"

    def run(value: int) -> int:
        (tmp_path / "edited_gen.py").write_text(source % value)
        sys.modules.pop("edited_gen", None)
        importlib.invalidate_caches()
        # a source of the same size within the same second would be read from stale bytecode
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        module = importlib.import_module("edited_gen")
        return int(cached("edited", {"seed": 0}, ["edited_gen"], module.build)["tokens"][0, 0])

    assert [run(1), run(1), run(2), run(1)] == [1, 1, 2, 1]
    sys.modules.pop("edited_gen", None)


def test_listops_names_the_source_of_its_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[set[str]] = []
    real = data.source_version
    monkeypatch.setattr(data, "source_version", lambda modules: (asked.append(set(modules)), real(modules))[1])
    ListOps(seq_len=40, seed=0, **SMALL, **FEW).examples("dev")
    assert asked == [{"tasks.listops", "tasks.seeds"}]


def test_listops_is_generated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = ListOps(seq_len=40, seed=0, **SMALL, **FEW).examples("train")
    monkeypatch.setattr("tasks.listops.sample", None)
    again = ListOps(seq_len=40, seed=0, **SMALL, **FEW).examples("train")
    assert (first.tokens == again.tokens).all()


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "manifest"])
def test_a_damaged_entry_is_made_again(cache: Path, damage: str) -> None:
    maker = Maker()
    good = get(maker)
    (arrow,) = entry(cache).glob("*.arrow")
    content = bytearray(arrow.read_bytes())
    if damage == "flip":
        at = bytes(content).index(bytes(range(12)))
        content[at + 5] ^= 1
        arrow.write_bytes(content)
    elif damage == "truncate":
        arrow.write_bytes(content[: len(content) // 2])
    elif damage == "delete":
        arrow.unlink()
    else:
        (entry(cache) / "attnbench.json").write_text("{")
    with pytest.warns(UserWarning, match="damaged cache entry .* generating it again") as warned:
        assert same(get(maker), good)
    assert len(warned) == 1
    assert maker.calls == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(get(maker), good)
    assert maker.calls == 2


def test_an_unusable_folder_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("ATTNBENCH_CACHE", str(tmp_path / "file" / "cache"))
    maker = Maker()
    with pytest.warns(UserWarning, match="generating in memory.*ATTNBENCH_CACHE") as warned:
        assert same(get(maker), Maker()())
    assert len(warned) == 1
    assert "\n" not in str(warned[0].message)


def test_a_full_disk_is_done_without(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(datasets.Dataset, "save_to_disk", full)
    maker = Maker()
    with pytest.warns(UserWarning, match="No space left.*ATTNBENCH_CACHE"):
        get(maker)
    assert maker.calls == 1
    assert [p for p in (cache / "things").iterdir() if p.is_dir()] == []


def test_what_a_killed_process_had_begun_to_write_goes(cache: Path) -> None:
    maker = Maker()
    get(maker)
    whole = entry(cache)
    left = whole.with_name(f".{whole.name}.99999")
    whole.rename(left)
    get(maker)
    assert maker.calls == 2
    assert whole.is_dir()
    assert not left.exists()


def test_a_folder_that_can_be_read_but_not_written_still_serves(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = Maker()
    get(maker)
    monkeypatch.setattr(data, "FileLock", None)  # any attempt to lock would fail
    assert same(get(maker), Maker()())
    assert maker.calls == 1


def test_errors_of_the_generator_are_not_swallowed() -> None:
    def broken() -> Table:
        raise FileNotFoundError("raw data missing")

    with pytest.raises(FileNotFoundError, match="raw data missing"):
        cached("things", {}, ["tasks.seeds"], broken)


SCRIPT = """
import sys, time
sys.path[:0] = [{root!r}]
from tasks import listops
real = listops.sample
def slow(*args):
    print("made", flush=True)
    time.sleep(1.0)
    return real(*args)
listops.sample = slow
task = listops.ListOps(seq_len=40, seed=0, **{small!r}, **{few!r})
print(hash(task.examples("train").tokens.numpy().tobytes()))
"""


def test_two_processes_build_once_and_get_the_same(cache: Path) -> None:
    root = str(Path(data.__file__).parents[1])
    script = SCRIPT.format(root=root, small=SMALL, few=FEW)
    import os

    env = {**os.environ, "PYTHONHASHSEED": "0"}
    started = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=env)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=60)[0].split() for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert outputs[0][-1] == outputs[1][-1]
    assert sum(output.count("made") for output in outputs) == 1


def test_the_root_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ATTNBENCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "attnbench"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "attnbench"


def test_streams_are_independent_and_fixed() -> None:
    assert seeds.derive_seed(0, "train") == 4450255320995488038
    assert len({seeds.derive_seed(s, a) for s in range(50) for a in ("train", "dev", "test")}) == 150
    assert seeds.derive_seed(1, "1/a") != seeds.derive_seed(11, "/a")
