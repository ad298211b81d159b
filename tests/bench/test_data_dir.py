"""task.data_dir: reaches the worker, is no part of an identity, and its absence costs one row."""

import csv
import json
from pathlib import Path

import pytest

from bench.cell import Cell
from bench.cli import main
from bench.execute import Limits
from bench.plan import plan_cells
from bench.store import Store
from bench.sweep import must_run, run_plan
from tests.bench.conftest import make_cell
from tests.tasks import folders

SHORT = [
    "task=text_mini",
    "seq_len=32",
    "heads=2",
    "head_dim=4",
    "task.train.steps=2",
    "task.train.warmup_steps=1",
    "task.params.dev_examples=10",
    "task.params.test_examples=10",
    "measure.passes=[train]",
    "hardware.threads=1",
]


@pytest.fixture
def data(tmp_path):
    folders.imdb(tmp_path / "data" / "imdb", train=60, test=20)
    return tmp_path / "data"


def sweep(cells, store, rerun="none"):
    return run_plan(plan_cells(cells), store, Limits(timeout_s=60), rerun, say=lambda line: None, bar=False)


def rows(store):
    with (store.folder / "accuracy.csv").open() as handle:
        return list(csv.DictReader(handle))


def test_two_folders_have_the_same_ids(tmp_path):
    one, other, none = (make_cell(*SHORT, *where) for where in (["task.data_dir=/a"], ["task.data_dir=/b"], []))
    assert {cell.cell_id for cell in (one, other, none)} == {one.cell_id}
    assert {cell.config_id for cell in (one, other, none)} == {one.config_id}
    assert one == other
    assert (one.data_dir, other.data_dir, none.data_dir) == ("/a", "/b", None)
    assert "/a" not in json.dumps(one.content())
    assert Cell.from_content(one.content()).cell_id == one.cell_id


def test_a_relative_folder_is_one_of_the_caller_s(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert make_cell(*SHORT, "task.data_dir=sets").data_dir == str(tmp_path / "sets")
    assert make_cell("task=copying", "task.data_dir=sets").task is not None  # a task that is generated needs none


def test_a_cell_without_its_data_is_a_row_and_the_others_run(tmp_path):
    store = Store(tmp_path, "some")
    copying = make_cell(
        "task=copying",
        "task.params.train_examples=50",
        "task.train.steps=2",
        "task.train.warmup_steps=1",
        *SHORT[-2:],
    )
    summary = sweep([make_cell(*SHORT, f"task.data_dir={tmp_path}/nowhere"), copying], store)
    found = {row["task"]: row for row in rows(store)}
    assert found["copying"]["status"] == "ok"
    assert found["text_mini"]["status"] == "unsupported"
    assert found["text_mini"]["reason"].startswith(
        f"task.data_dir={tmp_path}/nowhere: no such folder; with a network"
    )
    assert summary.counts() in ("unsupported 1, ok 1", "ok 1, unsupported 1")


def test_the_cell_runs_when_the_data_have_come(tmp_path, data):
    store = Store(tmp_path, "later")
    lacking, having = (make_cell(*SHORT, f"task.data_dir={where}") for where in (tmp_path / "nowhere", data))
    assert sweep([lacking], store).counts() == "unsupported 1"
    assert sweep([having], store).counts() == "ok 1"
    assert sweep([having], store).executed == 0
    (row,) = rows(store)
    assert len(row["data_digest"]) == 16
    assert str(data) not in (store.cells / f"{having.cell_id}.json").read_text()

    # the same rows elsewhere are the same data, others are not
    again = Store(tmp_path, "again")
    sweep([make_cell(*SHORT, f"task.data_dir={data.rename(tmp_path / 'moved')}/imdb")], again)
    assert rows(again)[0]["data_digest"] == row["data_digest"]
    folders.imdb(tmp_path / "other", train=62, test=20)
    sweep([make_cell(*SHORT, f"task.data_dir={tmp_path}/other")], again, rerun="all")
    assert rows(again)[0]["data_digest"] != row["data_digest"]


def test_the_hub_out_of_reach_is_found_by_the_worker(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # not asked whether the hub answers
    store = Store(tmp_path, "offline")
    cell = make_cell(*SHORT)
    summary = run_plan(
        plan_cells([cell]), store, Limits("subprocess", 60), "none", say=lambda line: None, bar=False
    )
    assert summary.counts() == "unsupported 1"
    (row,) = rows(store)
    assert row["reason"].startswith("task.data_dir: not given, and stanfordnlp/imdb (test) cannot be fetched (")
    assert must_run(summary.records[0], cell, "none")


def test_damaged_data_are_an_error_that_names_the_file(tmp_path, data):
    file = data / "imdb" / "test.parquet"
    file.write_bytes(file.read_bytes()[:300])
    store = Store(tmp_path, "damaged")
    assert sweep([make_cell(*SHORT, f"task.data_dir={data}")], store).counts() == "error 1"
    assert rows(store)[0]["reason"].startswith(f"ValueError: {file}: cannot be read as parquet")


def test_a_single_cell_without_data_exits_with_1(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    monkeypatch.setattr("sys.argv", ["run.py", *SHORT, "task.data_dir=nowhere", f"results_dir={tmp_path}"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert "no such folder; with a network, stanfordnlp/imdb is fetched" in capsys.readouterr().out


def test_data_dir_is_no_parameter_of_the_task():
    from bench.errors import Refused

    with pytest.raises(Refused, match=r"task\.params\.data_dir='x': set by the harness"):
        make_cell("task=text_mini", "+task.params.data_dir=x")
