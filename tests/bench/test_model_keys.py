"""Reversible layers, chunks, schedules and a task's own globals, from the command line to the row."""

import json
from dataclasses import replace

import pytest
import torch

from bench.build import facts
from bench.case import build_case
from bench.cell import Cell
from bench.cli import check
from bench.collect import rows_of
from bench.errors import Refused
from bench.execute import new_record
from bench.model import build_model, build_task
from bench.plan import plan_cells
from bench.show import cell_line, cell_table
from bench.training.loop import train
from methods.full import Full
from methods.registry import Capabilities
from tasks.copying import Copying
from tests.bench.conftest import make_cell

MODEL = ["level=model", "seq_len=64", "mode=train"]
SCHEDULE = [*MODEL, "method=longformer", "method.window=[8,64]"]


@pytest.mark.parametrize("form", [[], ["model.reversible=true"], ["model.ff_chunks=4"]])
@pytest.mark.parametrize("method", ["sdpa", "performer"])
def test_every_form_of_the_model_runs_and_has_an_id_of_its_own(form, method):
    cell = make_cell(*MODEL, f"method={method}", *form)
    model = build_model(cell, cell.method, None)
    assert model.encoder.reversible == ("model.reversible=true" in form)
    assert model.encoder.ff_chunks == (4 if "model.ff_chunks=4" in form else 1)
    build_case(cell, cell.method).call()
    other = make_cell(*MODEL, f"method={method}", "model.reversible=true", "model.ff_chunks=2")
    assert cell.cell_id != other.cell_id
    assert cell.config_id != other.config_id
    assert Cell.from_content(json.loads(json.dumps(cell.content()))) == cell


def test_the_row_says_which_form():
    for cell, form in (
        (make_cell(*MODEL, "model.reversible=true", "model.ff_chunks=4"), (True, 4)),
        (make_cell(*MODEL), (False, 1)),
        (make_cell(), (False, 1)),
    ):
        record = new_record(plan_cells([cell])[0], {}, "run")
        row = next(iter(rows_of(record)))[1]
        assert (row["reversible"], row["ff_chunks"]) == form


def test_more_is_computed_again():
    plain, reversible, chunked = (
        facts(make_cell(*MODEL, *form)).flops for form in ([], ["model.reversible=true"], ["model.ff_chunks=2"])
    )
    assert plain < chunked < reversible < 1.5 * plain


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("model.ff_chunks=0", "model.ff_chunks=0: expected a number >= 1"),
        ("model.reversible=maybe", "'maybe' is not a valid bool"),
        (
            "level=model method=longformer method.window=[8,16,32]",
            r"method.window=\[8, 16, 32\]: expected one value, or one for each of 2 layers",
        ),
        ("method=longformer method.window=[8,16]", "one for each of 1 layers"),
        ("level=model method=longformer method.window=[8,7]", "method.window=7: expected an even number"),
        (
            "level=model method=longformer method.window=[8,wide]",
            "expected int, or a list with one for each layer",
        ),
    ],
)
def test_refused_in_one_line(line, message):
    with pytest.raises(Refused, match=message) as caught:
        check(line.split())
    assert "\n" not in str(caught.value)


def test_a_schedule_has_no_one_budget_and_is_degenerate_when_every_layer_is():
    found = facts(make_cell(*SCHEDULE))
    assert (found.budget_name, found.budget_value, found.degenerate) == ("window", None, False)
    assert facts(make_cell(*SCHEDULE, "method.window=[64,128]")).degenerate
    even = facts(make_cell(*SCHEDULE, "method.window=[8,8]"))
    assert (even.budget_value, even.degenerate) == (8.0, False)


def test_a_schedule_can_be_shown():
    (planned,) = plan_cells([make_cell(*SCHEDULE)])
    record = new_record(planned, {}, "run")
    assert "longformer" in cell_line(record)
    assert "window=[8, 64]" in cell_table(record)


class Watched(Full):
    """Full attention that would know globals."""

    capabilities = Capabilities(token_globals=True)


class Asking(Copying):
    """Copying whose first two tokens are global."""

    def examples(self, split):
        found = super().examples(split)
        return replace(found, global_mask=(torch.arange(self.seq_len) < 2).expand_as(found.tokens))


def test_a_task_names_its_global_tokens(monkeypatch):
    task = f"task._target_={__name__}.Asking"
    cell = make_cell("task=copying", task, "seq_len=64", "task.train.steps=2", "task.train.eval_every=1")
    seen = []

    def watch(self, tokens, padding=None, global_mask=None):
        seen.append(global_mask)
        return self.head(self.encoder(tokens.long(), padding, global_mask), padding)

    monkeypatch.setattr("bench.model.Model.forward", watch)
    train(cell, lambda *_: None)
    build_case(replace(cell, mode="forward"), cell.method).call()
    assert seen
    assert all(mask.shape[1] == 64 and mask[:, :2].all() and not mask[:, 2:].any() for mask in seen)
    task = build_task(cell)
    assert task.examples("dev").rows(torch.arange(3)).global_mask.shape == (3, 64)
    with pytest.raises(ValueError, match="examples disagree"):
        replace(task.examples("dev"), global_mask=torch.ones(2, 3, dtype=torch.bool))
