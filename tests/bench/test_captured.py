"""Errors on what the layers of a trained model are given, and how many of the heaviest keys a method finds."""

from __future__ import annotations

import pytest
import torch

from bench.collect import rows_of
from bench.errors import Refused
from bench.execute import new_record
from bench.measure import captured, error
from bench.measure.captured import Captured
from bench.model import BASELINE_METHOD, attention_layers
from bench.plan import plan_cells
from tests.bench.conftest import make_cell

TRAINED = ["measure=error", "task=copying", "task.train.steps=3", "task.train.eval_every=3"]


def of_task(*overrides):
    return make_cell(*TRAINED, *overrides)


def test_each_layer_of_the_trained_model_has_a_row():
    cell = of_task("method=longformer", "method.window=8", "model.layers=2")
    assert (cell.table, cell.level, cell.measure.passes) == ("errors", "model", ("error",))
    seen = []
    found = error.measure(cell, lambda step, steps, note: seen.append((step, steps)))
    assert seen == [(3, 3)]
    assert [row["layer"] for row in found["errors"]] == [0, 1]
    assert all(row["output_error"] > 0 and 0 < row["topk_recall"] <= 1 for row in found["errors"])
    record = {**new_record(plan_cells([cell])[0], {}, "run"), "status": "ok", "results": {"error": found}}
    rows = [row for table, row in rows_of(record) if table == "errors"]
    assert [(row["inputs"], row["layer"], row["task"]) for row in rows] == [
        ("trained", i, "copying") for i in (0, 1)
    ]


def test_what_is_captured_is_what_the_projections_make():
    """By the model's own weights, without hooks: the first layer's q, k, v of the first dev examples."""
    cell = of_task("method=sdpa")
    layers, _ = captured.capture(cell, lambda step, steps, note: None)
    run, _ = captured.trained_model(cell, lambda step, steps, note: None)  # a training is a function of its cell
    model, tokens = run.model.eval(), run.dev_set.rows(torch.arange(captured.EXAMPLES)).tokens
    inputs = []
    mixer = next(part for part in model.modules() if type(part).__name__ == "Mixer")
    mixer.qkv.register_forward_hook(lambda module, given, out: inputs.append(out))
    with torch.no_grad():
        model(tokens)
    parts = inputs[0].chunk(3, dim=-1)
    for part, tensor in zip(parts, (layers[0].q, layers[0].k, layers[0].v), strict=True):
        want = part.view(*part.shape[:2], cell.heads, cell.head_dim).transpose(1, 2)
        assert torch.equal(tensor, want)


@pytest.mark.parametrize("method", ["full", "sdpa"])
def test_exact_attention_has_no_error_on_them_either(method):
    for row in error.measure(of_task(f"method={method}"))["errors"]:
        assert row["output_error"] < 1e-5
        assert row["topk_recall"] == 1.0


def test_methods_are_compared_on_one_and_the_same_model():
    rows = [error.measure(of_task(f"method={name}"))["errors"] for name in ("linear", "performer")]
    assert rows[0][0]["qk_norm"] == rows[1][0]["qk_norm"]
    assert rows[0][0]["exact_accuracy"] == rows[1][0]["exact_accuracy"]


def given(padded: int, n: int = 24) -> Captured:
    q, k, v = torch.randn(3, 2, 2, n, 8, generator=torch.Generator().manual_seed(0))
    padding = torch.arange(n).expand(2, n) >= n - padded
    return Captured(q, k, v, padding if padded else None)


@pytest.mark.parametrize("name", ["longformer", "performer", "reformer"])
def test_padding_takes_no_part(name):
    """The same rows with a tail of pads, whatever they hold, have the errors of the rows alone."""
    cell = make_cell(f"method={name}", "heads=2", "head_dim=8", "seq_len=24")
    method = attention_layers(cell, cell.method, 1)[0].eval()
    exact = attention_layers(cell, BASELINE_METHOD, 1)[0].eval()
    padded = given(6)
    spoilt = Captured(
        *(x.masked_fill(padded.padding[:, None, :, None], 9.0) for x in (padded.q, padded.k, padded.v)),
        padded.padding,
    )
    one, other = (error.compare(method, exact, each, 1024) for each in (padded, spoilt))
    assert one == pytest.approx(other, rel=1e-5)
    assert padded.scale == pytest.approx(spoilt.scale) != given(0).scale


def test_the_scale_is_that_of_gaussians():
    q, k, v = torch.randn(3, 4, 2, 4096, 16, generator=torch.Generator().manual_seed(0))
    assert Captured(q * 3, k * 3, v, None).scale == pytest.approx(3, rel=0.01)


def test_recall_by_hand():
    want = torch.tensor([[[0.5, 0.3, 0.2, 0.0], [0.1, 0.2, 0.3, 0.4]]])
    got = torch.tensor([[[0.9, 0.0, 0.1, 0.0], [0.0, 0.0, 0.0, 1.0]]])
    # two of three keys that there are; one of four
    assert error.recall(got, want, top=4) == pytest.approx((2 / 3 + 1 / 4) / 2)
    assert error.recall(got, want, top=1) == 1.0


@pytest.mark.parametrize("causal", ["false", "true"])
def test_recall_of_hashing_is_that_of_its_candidates(causal):
    """A key counts when a round put it among those that the query looks at."""
    line = f"method=reformer method.chunk=8 method.rounds=2 heads=2 head_dim=8 seq_len=64 causal={causal}"
    cell = make_cell(*line.split())
    method = attention_layers(cell, cell.method, 1)[0].double().eval()
    q = torch.randn(1, 2, 64, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    near = method.candidates(q, method.frozen)[0] > 0
    want = method.target_logits(q[0], q[0]).softmax(-1)
    shares = []
    for head in range(2):
        for row in range(64):
            keys = [
                int(j) for j in want[head, row].argsort(descending=True)[: error.TOP] if want[head, row, j] > 0
            ]
            alone = keys == [row]  # nothing else to see
            shares.append(1.0 if alone else sum(bool(near[head, row, j]) for j in keys) / len(keys))
    found = error.recall(error.effective_matrix(method, q, q), want)
    assert found == pytest.approx(sum(shares) / len(shares))
    assert 0.2 < found < 1


def test_learned_methods_say_why_they_have_no_error():
    (row, *_) = error.measure(of_task("method=linformer"))["errors"]
    assert "must be learned" in row["note"]
    assert "output_error" not in row


def test_with_a_task_error_goes_alone():
    with pytest.raises(Refused, match="error goes alone"):
        make_cell("task=copying", "measure.passes=[error,memory]")
    with pytest.raises(Refused, match="error is defined at level=core"):
        make_cell("level=mixer", "measure.passes=[error]")
