"""The training loop: learns what can be learned, repeats itself, tests the best dev step once."""

import pytest
import torch

from bench.build import facts
from bench.case import build_case
from bench.cell import derive_seed
from bench.errors import Refused
from bench.model import build_model, build_task
from bench.training.batches import Batches
from bench.training.distributed import Group
from bench.training.evaluate import evaluate
from bench.training.learner import Learner
from bench.training.loop import Diverged, train
from bench.training.precision import Precision, why_unsupported
from tasks.registry import Examples
from tests.bench.conftest import make_cell
from tests.bench.training.conftest import computed, losses, of_task, quiet, small


def test_same_seed_same_numbers_and_another_seed_others():
    one, again, other = (train(small("model.dropout=0.1", f"seed={seed}"), quiet) for seed in (0, 0, 1))
    assert computed(one) == computed(again)
    assert not set(losses(one)) & set(losses(other))


def test_the_task_is_learned():
    found = train(make_cell("task=copying", "task.train.steps=120", "seq_len=40"), quiet)
    assert found["accuracy"] > 3 * found["chance"]
    assert found["curve"][-1]["train_loss"] < found["curve"][0]["train_loss"]


def test_the_first_best_dev_step_is_the_one_that_is_tested():
    found = train(small("task.train.eval_every=1", "task.train.steps=12"), quiet)
    best = max(found["curve"], key=lambda point: point["dev_accuracy"])
    assert (found["best_step"], found["dev_accuracy"]) == (best["step"], best["dev_accuracy"])


def test_patience_stops_a_run_that_gets_no_better():
    found = train(small("task.train.lr=0", "task.train.patience=2", "task.train.steps=50"), quiet)
    assert (found["best_step"], found["steps"], len(found["curve"])) == (2, 6, 3)
    assert train(small("task.train.lr=0"), quiet)["steps"] == 6


def test_divergence_is_noticed():
    with pytest.raises(Diverged, match=r"training loss was .* by step .*task.train.lr=1e\+30"):
        train(small("task.train.steps=60", "task.train.lr=1e30", "task.train.grad_clip=0"), quiet)
    with pytest.raises(Diverged, match="pretraining loss"):
        train(small("task.train.steps=60", "task.train.lr=1e30", "task.train.pretrain=masked"), quiet)


def test_an_epoch_sees_every_example_once():
    rows = Examples(torch.arange(12)[:, None], torch.arange(12), torch.ones(12, dtype=torch.int64))
    batches = Batches(rows, 4, 0, Group())
    epochs = [torch.cat([batches.rows(step) for step in steps]).tolist() for steps in ((0, 1, 2), (3, 4, 5))]
    assert [sorted(epoch) for epoch in epochs] == [list(range(12))] * 2
    assert epochs[0] != epochs[1]
    assert batches.rows(1).tolist() == epochs[0][4:8]  # whatever was asked for before
    assert Batches(rows, 99, 0, Group()).size == 12


def test_stratified_batches_hold_the_shares_of_the_split():
    classes = torch.tensor([0] * 70 + [1] * 40 + [2] * 10)
    rows = Examples(torch.arange(120)[:, None], classes, torch.ones(120, dtype=torch.int64))
    batches = Batches(rows, 24, 0, Group(), stratify=True)
    for epoch in (0, 1):
        taken = [batches.rows(5 * epoch + place) for place in range(5)]
        assert sorted(torch.cat(taken).tolist()) == list(range(120))
        for batch in taken:
            counts = torch.bincount(classes[batch], minlength=3)
            assert (counts - torch.tensor([14, 8, 2])).abs().max() <= 1
    assert batches.rows(0).tolist() != batches.rows(5).tolist()
    assert batches.rows(0).tolist() == Batches(rows, 24, 0, Group(), stratify=True).rows(0).tolist()


def test_stratified_training_is_another_run_of_the_same_data():
    pair = of_task("Pair")
    plain, stratified = (train(small(pair, f"task.train.stratify={flag}"), quiet) for flag in ("false", "true"))
    assert losses(plain) != losses(stratified)
    rows = build_task(small(of_task("Ragged"))).examples("train")
    with pytest.raises(ValueError, match=r"task.train.stratify=true: this task has a target a token"):
        Batches(rows, 9, 0, Group(), stratify=True)


def test_evaluation_counts_every_target():
    model = torch.nn.Module()
    model.forward = lambda tokens, padding, global_mask: torch.nn.functional.one_hot(tokens[:, 0] % 3, 3).float()
    tokens = torch.arange(600)[:, None]
    examples = Examples(tokens, (tokens[:, 0] % 3).to(torch.uint8), torch.ones(600, dtype=torch.int64))
    found = evaluate(model, examples, 256, Precision("cpu", "float32"), Group())
    assert (found["accuracy"], found["correct"], found["count"]) == (1.0, 600, 600)


@pytest.mark.parametrize("task", ["Ragged", "Pair"])
@pytest.mark.parametrize("pretrain", ["none", "masked"])
def test_accumulated_pieces_are_the_batch(task, pretrain):
    overrides = [
        of_task(task),
        "hardware.dtype=float64",
        "model.pooled_norm=none",
        f"task.train.pretrain={pretrain}",
    ]
    whole, pieces = (train(small(*overrides, f"task.train.accumulate={n}"), quiet) for n in (1, 4))
    assert losses(whole) == pytest.approx(losses(pieces), rel=1e-10)
    if pretrain != "none":
        assert whole["pretrain_loss"] == pytest.approx(pieces["pretrain_loss"], rel=1e-10)


def test_whole_batches_are_needed_to_standardise_over_them():
    with pytest.raises(Refused, match=r"^model.pooled_norm=batch: needs whole batches"):
        small(of_task("Pair"), "task.train.accumulate=2")
    small("task.train.accumulate=2")  # a task of one target a token pools nothing


def test_too_many_pieces_for_the_data():
    cell = small("task.params.train_examples=8", "task.train.accumulate=9")
    with pytest.raises(ValueError, match=r"task.train.accumulate=9: too many pieces for batches of 8"):
        train(cell, quiet)


def test_the_loss_is_the_mean_over_the_targets_of_the_batch():
    cell = small(of_task("Ragged"), "hardware.dtype=float64", "task.train.steps=1", "task.train.eval_every=1")
    task = build_task(cell)
    model = build_model(cell, cell.method, task).double()
    examples = task.examples("train")
    batch = examples.rows(Batches(examples, 9, derive_seed(0, "batches"), Group()).rows(0))
    with torch.no_grad():
        logits = model(batch.tokens, batch.padding_mask())
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten().long())
    assert train(cell, quiet)["train_loss"] == pytest.approx(float(expected), rel=1e-12)


def test_every_document_of_a_batch_counts_as_tokens():
    cell = small(of_task("Pair"))
    found = train(cell, quiet)
    assert found["train_tokens_per_s"] * found["step_ms"] / 1000 == pytest.approx(9 * 2 * 16)
    assert build_case(cell, cell.method).tokens == 9 * 2 * 16


def test_what_is_planned_knows_documents_and_pieces():
    one, pair = (facts(small(of_task(task))) for task in ("Ragged", "Pair"))
    assert pair.flops == 2 * one.flops
    assert pair.footprint_mib == 2 * one.footprint_mib
    pieces = facts(small("task.train.accumulate=9"))
    assert (pieces.flops, 9 * pieces.footprint_mib) == (one.flops, pytest.approx(one.footprint_mib))
    assert facts(small("task.train.pretrain=masked")).work == 2 * one.work


def test_the_measured_step_is_that_of_one_piece():
    (ids, _) = build_case(small("task.train.accumulate=4"), small().method).inputs
    assert ids.shape == (3, 16)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_precision(dtype):
    found = train(small(f"hardware.dtype={dtype}", "task.train.steps=2", "task.train.pretrain=masked"), quiet)
    exact = train(small("task.train.steps=2", "task.train.pretrain=masked"), quiet)
    assert losses(found) == pytest.approx(losses(exact), rel=0.02)
    assert losses(found) != losses(exact)


def test_float16_is_not_trained_in_where_it_has_not_been_tried():
    assert why_unsupported("cpu", "float16") is why_unsupported("cuda:1", "float16") is None
    assert why_unsupported("mps", "float16").startswith("hardware.dtype=float16: training in it runs on")


def test_bfloat16_is_not_emulated(monkeypatch):
    native = True
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation or native)
    assert why_unsupported("cuda:0", "bfloat16") is why_unsupported("cpu", "bfloat16") is None
    native = False
    assert why_unsupported("cuda:0", "bfloat16").startswith("hardware.dtype=bfloat16: this GPU would only emulate")
    assert why_unsupported("cpu", "bfloat16") is None


def learner(*overrides):
    cell = small(*overrides)
    task = build_task(cell)
    model = build_model(cell, cell.method, task)
    batches = Batches(task.examples("train"), 9, 0, Group())
    return Learner(model, cell.train, 6, Precision("cpu", "float32"), Group()), batches


def test_gradients_are_clipped_by_value_and_by_norm():
    def gradients(*overrides):
        trained, batches = learner("task.train.grad_clip=0", *overrides)
        trained.step(batches, 0)
        return torch.cat([parameter.grad.flatten() for parameter in trained.parameters])

    free = gradients()
    assert free.norm() > 0.1
    assert gradients("task.train.grad_clip=0.01").norm() == pytest.approx(0.01, rel=1e-3)
    assert torch.equal(gradients("task.train.grad_clip_value=0.001"), free.clamp(-0.001, 0.001))


def test_the_optimiser_is_set_as_asked():
    trained, batches = learner(
        "task.train.betas=[0.9,0.98]", "task.train.eps=1e-9", "task.train.weight_decay=0.1", "task.train.lr=0.5"
    )
    trained.step(batches, 0)
    (group,) = trained.optimiser.param_groups  # one: biases and norms decay as well
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.9, 0.98), 1e-9, 0.1)
    assert group["lr"] == 0.25  # the first of two warm-up steps
