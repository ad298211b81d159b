"""Accuracy by tags: counted over batches, and written as a table of its own."""

import csv
import json

import torch

from bench.breakdown import Breakdown
from bench.cell import RECORD_VERSION
from bench.collect import collect
from bench.store import Store
from bench.training.distributed import Group
from bench.training.evaluate import evaluate
from bench.training.precision import Precision
from tasks.registry import IGNORE, Examples
from tests.bench.conftest import make_cell


def test_each_combination_of_tags_is_counted_over_all_batches():
    rows = 600  # several batches
    depth = torch.arange(rows) % 3 / 2
    length = torch.where(torch.arange(rows) < 300, 8, 16)
    targets = torch.full((rows, 2), IGNORE, dtype=torch.int8)
    targets[:, 1] = 1
    tokens = torch.arange(rows)[:, None].repeat(1, 2)
    examples = Examples(tokens, targets, torch.full((rows,), 2), tags={"length": length, "depth": depth})

    model = torch.nn.Module()  # right where the depth is 0, and at 1 in the second half
    model.forward = lambda tokens, padding, global_mask: torch.nn.functional.one_hot(
        ((tokens % 3 == 0) | ((tokens % 3 == 2) & (tokens >= 300))).long(), 2
    ).float()
    breakdown = Breakdown()
    found = evaluate(model, examples, 128, Precision("cpu", "float32"), Group(), breakdown)
    assert found["count"] == 600
    assert breakdown.groups() == [
        {"tags": {"depth": depth, "length": length}, "correct": correct, "count": 100}
        for depth, length, correct in [
            (0, 8, 100),
            (0, 16, 100),
            (0.5, 8, 0),
            (0.5, 16, 0),
            (1, 8, 0),
            (1, 16, 100),
        ]
    ]


def test_a_task_without_tags_has_no_breakdown():
    breakdown = Breakdown()
    breakdown.add(None, torch.zeros(2), torch.zeros(2, 3))
    assert breakdown.groups() == []


def test_a_row_a_combination_in_breakdown_csv(tmp_path):
    cell = make_cell("task=copying", "seed=3")
    store = Store(tmp_path, "tagged")
    store.open()
    trained = {
        "correct": 30,
        "test_targets": 40,
        "accuracy": 0.75,
        "breakdown": [
            {"tags": {"depth": 0.5, "length": 16}, "correct": 10, "count": 20},
            {"tags": {"depth": 1, "length": 16}, "correct": 20, "count": 20},
        ],
    }
    store.write_record(
        {
            "record_version": RECORD_VERSION,
            "run": "tagged",
            "cell_id": cell.cell_id,
            "config_id": cell.config_id,
            "env_id": "e",
            "status": "ok",
            "reason": None,
            "cell": cell.content(),
            "results": {"train": trained},
        }
    )
    assert collect(store) == []
    with (store.folder / "breakdown.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [json.loads(row["tags"]) for row in rows] == [group["tags"] for group in trained["breakdown"]]
    assert rows[0]["tags"] == '{"depth":0.5,"length":16}'
    assert [(float(row["accuracy"]), row["test_targets"]) for row in rows] == [(0.5, "20"), (1.0, "20")]
    assert all(float(r["accuracy_low"]) <= float(r["accuracy"]) <= float(r["accuracy_high"]) for r in rows)
    assert {(row["task"], row["seed"], row["cell_id"]) for row in rows} == {("copying", "3", cell.cell_id)}
