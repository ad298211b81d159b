"""The store: whole records or none, foreign files named, full disks survived."""

import contextlib
import csv
import errno
import json
import os
import subprocess

import pytest

from bench.collect import collect
from bench.columns import SCHEMA_VERSION, STATUSES, TABLES
from bench.errors import StoreError
from bench.execute import Limits, new_record
from bench.store import Store
from bench.sweep import run_plan
from tests.bench.conftest import make_plan

ENVIRONMENT = {"cpu": "a test"}


def record(line="method=sdpa", **changes):
    return {**new_record(make_plan(line)[0], ENVIRONMENT, "test"), "status": "ok", **changes}


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path, "test")
    made.open()
    return made


def test_a_record_comes_back(store):
    written = record()
    store.write_record(written)
    assert store.read(written["cell_id"]) == json.loads(json.dumps(written))
    assert store.read("0" * 16) is None


def test_corrupt_and_foreign_files_are_named_and_left_alone(store):
    good = record()
    store.write_record(good)
    other = record("method=full")
    files = {
        "truncated.json": json.dumps(other)[:100],
        "list.json": "[1, 2]",
        "foreign.json": '{"name": "someone else\'s"}',
        f"{other['cell_id']}.json": json.dumps({**other, "record_version": 99}),
        "renamed.json": json.dumps(other),
        "binary.json": "\x00\x01",
    }
    for name, text in files.items():
        (store.cells / name).write_text(text)
    records, complaints = store.read_all()
    assert [found["cell_id"] for found in records] == [good["cell_id"]]
    assert len(complaints) == len(files)
    assert all(any(name in line for line in complaints) for name in files)
    assert all("\n" not in line and "its cell counts as not done" in line for line in complaints)
    assert store.read(other["cell_id"]) is None
    assert collect(store) == complaints


def test_a_full_disk_is_one_line_and_loses_nothing(store, monkeypatch):
    first = record()
    store.write_record(first)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        StoreError, match="No space left on device; free some space and run the same command again"
    ):
        store.write_record(record("method=full"))
    with pytest.raises(StoreError, match=r"efficiency.csv: No space left"):
        collect(store)
    monkeypatch.undo()
    assert sorted(path.name for path in store.cells.iterdir()) == [f"{first['cell_id']}.json"]
    assert not list(store.folder.glob("*.csv"))
    assert not list(store.folder.glob(".*"))


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 256 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        pytest.skip(f"cannot mount a file system: {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_really_full_or_read_only(small_disk):
    """Whatever is being written, one line says what to do; what was there stays whole; space brings it back."""
    store = Store(small_disk, "test")
    store.open()
    ballast = small_disk / "ballast"
    plan = make_plan("method=sdpa measure.passes=[flops]", "method=full measure.passes=[flops]")
    run_plan(plan[:1], store, Limits(), "none", bar=False)
    kept = {path: path.read_bytes() for path in store.folder.rglob("*") if path.is_file()}
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as handle:
        while True:
            handle.write(b"x" * 4096)
    with pytest.raises(
        StoreError, match="No space left on device; free some space and run the same command again"
    ):
        run_plan(plan, store, Limits(), "none", bar=False)
    assert {path: path.read_bytes() for path in store.folder.rglob("*") if path.is_file()} == kept
    ballast.unlink()
    assert run_plan(plan, store, Limits(), "none", bar=False).executed == 1
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StoreError, match="Read-only file system; choose another folder with results_dir=PATH"):
        run_plan(plan, store, Limits(), "all", bar=False)


def test_an_unwritable_folder_is_one_line(tmp_path):
    (tmp_path / "taken").write_text("a file where the folder should be")
    with pytest.raises(StoreError, match=r"cannot write .*; choose another folder with results_dir=PATH"):
        Store(tmp_path / "taken", "test").open()


@pytest.mark.parametrize("run", ["", "a/b", "..", ".hidden", "a\\b"])
def test_a_run_is_the_plain_name_of_a_folder(tmp_path, run):
    with pytest.raises(StoreError, match="plain name"):
        Store(tmp_path, run)


def test_tables_have_exactly_the_declared_columns(store):
    store.write_record(record())
    store.write_environment("abc", ENVIRONMENT)
    collect(store)
    for table, columns in TABLES.items():
        with (store.folder / f"{table}.csv").open() as handle:
            reader = csv.DictReader(handle)
            assert reader.fieldnames == list(columns)
            rows = list(reader)
        assert all(row["schema_version"] == str(SCHEMA_VERSION) for row in rows)
    with (store.folder / "efficiency.csv").open() as handle:
        row = next(csv.DictReader(handle))
    assert row["status"] in STATUSES
    assert row["causal"] == "false"
    assert row["latency_ms"] == ""


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("line", ["method=sdpa", "measure=error", "task=copying seq_len=null"])
def test_a_cell_without_results_still_has_its_row(store, line, status):
    store.write_record(record(line, status=status, reason='why, with a comma and "quotes"'))
    collect(store)
    rows = []
    for table in ("efficiency", "errors", "accuracy"):
        with (store.folder / f"{table}.csv").open() as handle:
            rows += list(csv.DictReader(handle))
    assert [(row["status"], row["reason"]) for row in rows] == [(status, 'why, with a comma and "quotes"')]
