"""The presets of the model, its poolings, positions and sizes, and the rule on parameters."""

import json
from dataclasses import replace

import pytest
import torch

from bench.build import facts
from bench.case import build_case
from bench.cell import Cell
from bench.collect import rows_of
from bench.errors import Refused
from bench.execute import new_record
from bench.model import build_model, build_task
from bench.plan import plan_cells
from bench.show import cell_line, cell_table
from tests.bench.conftest import make_cell

MODEL = ["level=model", "seq_len=64", "mode=train"]

#: layers, heads, width, heads x head_dim, ff_dim, dropout, positions, pooling: the table of each paper's code.
SIZES = {
    "nystrom": (2, 2, 64, 64, 128, 0.1, "learned", "mean"),
    "lra_listops": (4, 8, 512, 512, 1024, 0.1, "sinusoidal", "cls"),
    "lra_text": (4, 4, 256, 256, 1024, 0.1, "sinusoidal", "cls"),
    "lra_retrieval": (4, 4, 128, 128, 512, 0.1, "sinusoidal", "first"),
    "lra_image": (1, 8, 128, 64, 128, 0.3, "learned", "cls"),
    "lra_pathfinder": (4, 4, 32, 16, 32, 0.2, "sinusoidal", "mean"),
    "lra_pathx": (1, 2, 32, 16, 32, 0.1, "learned", "mean"),
}


@pytest.mark.parametrize("name", SIZES)
def test_a_preset_has_the_published_size(name):
    cell = make_cell(*MODEL, f"model={name}")
    made = cell.model
    found = (made.layers, cell.heads, made.width, cell.heads * cell.head_dim)
    assert (*found, made.ff_dim, made.dropout, made.positions, made.pooling) == SIZES[name]
    assert made.classifier_dim == made.ff_dim  # LRA's mlp_dim; Nystromformer's 128
    with torch.device("meta"):
        model = build_model(cell, cell.method, None)
    assert len(model.encoder.blocks) == made.layers
    assert model.encoder.embed.weight.shape[1] == made.width
    assert model.head.hidden.weight.shape == (made.ff_dim, made.width)


def test_parameters_of_lra_s_listops_model_by_hand():
    """Four layers of 4 x 512^2, two LayerNorms and an MLP; the last LayerNorm, CLS, embedding and classifier."""
    cell = make_cell("level=model", "model=lra_listops", "seq_len=2000")
    layer = 4 * 512**2 + 4 * 512 + 2 * 512 * 1024 + 1024 + 512
    head = 512 * 1024 + 1024 + 1024 * 10 + 10
    assert facts(cell).parameters == 4 * layer + 2 * 512 + 512 + 256 * 512 + head


def test_the_embedding_s_scale():
    for std in (0.02, 1.0):
        cell = make_cell(*MODEL, f"model.embedding_std={std}")
        assert build_model(cell, cell.method, None).encoder.embed.weight.std().item() == pytest.approx(
            std, rel=0.05
        )


def test_spelling_the_default_sizes_changes_no_id():
    plain = make_cell(*MODEL)
    assert (plain.model.width, plain.model.classifier_dim) == (64, 64)
    assert make_cell(*MODEL, "model.width=64", "model.classifier_dim=64").cell_id == plain.cell_id
    assert make_cell(*MODEL, "heads=4").model.width == 128
    others = ["model.width=32", "model.classifier_dim=32", "model.embedding_std=1", "model.positions=rotary"]
    assert len({make_cell(*MODEL, item).config_id for item in others} | {plain.config_id}) == 5
    cell = make_cell(*MODEL, "model=lra_image")
    assert Cell.from_content(json.loads(json.dumps(cell.content()))) == cell


@pytest.mark.parametrize("method", ["sdpa", "longformer", "reformer"])
@pytest.mark.parametrize("form", ["model.pooling=cls", "model.positions=rotary", "model.width=40"])
def test_every_form_takes_a_training_step(method, form):
    cell = make_cell(*MODEL, f"method={method}", form)
    build_case(cell, cell.method).call()


def test_the_head_of_a_cls_model_sees_the_cls_alone():
    cell = make_cell(*MODEL, "model.pooling=cls")
    model = build_model(cell, cell.method, None).eval()
    assert model.encoder.front_tokens == 1
    tokens = torch.randint(256, (3, 64), generator=torch.Generator().manual_seed(0))
    padding = torch.arange(64) >= torch.tensor([64, 20, 5])[:, None]
    row = model.encoder(tokens, padding, keep_front=True)[:, 0]
    wanted = model.head.classes(torch.relu(model.head.hidden(row)))
    assert torch.allclose(model(tokens, padding), wanted, atol=1e-6)


def test_poolings_of_real_tokens_do_not_see_the_front():
    """ETC prepends its tokens: mean, first and last are of the input's own."""
    etc = ["method=bigbird_etc", "method.block=4", "method.global_tokens=5"]
    for pooling in ("mean", "first", "last"):
        cell = make_cell(*MODEL, *etc, f"model.pooling={pooling}")
        model = build_model(cell, cell.method, None).eval()
        assert model.encoder.front_tokens == 5
        tokens = torch.randint(256, (2, 64), generator=torch.Generator().manual_seed(0))
        hidden = model.encoder(tokens)
        assert hidden.shape == (2, 64, 64)
        assert torch.allclose(model(tokens), model.head(hidden), atol=1e-6)


@pytest.mark.parametrize("globals_", [0, 5])
def test_a_cls_is_one_of_etc_s_global_tokens(globals_):
    etc = ["method=bigbird_etc", "method.block=4", f"method.global_tokens={globals_}", "model.pooling=cls"]
    cell = make_cell(*MODEL, *etc)
    model = build_model(cell, cell.method, None)
    assert model.encoder.front_tokens == max(globals_, 1)
    attention = model.encoder.layers()[0].mixer.attention
    assert attention.shape.seq_len == 64 + max(globals_, 1)
    assert model(torch.zeros(2, 64, dtype=torch.long)).shape == (2, 10)
    assert make_cell(*etc).level == "core"
    assert facts(make_cell(*etc[:3], "seq_len=64")).verdict is None  # at level core they are among the 64


def test_an_input_shorter_than_etc_s_global_tokens_is_kept_whole():
    """At level core 256 of 300 rows are global, and the others too few for random blocks; a model adds the 256."""
    etc = ["seq_len=300", "method=bigbird_etc", "method.block=16", "method.random_blocks=1"]
    assert facts(make_cell("level=model", *etc)).verdict is None
    status, reason = facts(make_cell(*etc)).verdict
    assert status == "unsupported"
    assert reason.startswith("seq_len=300 with 256 global tokens: BigBirdETC")


@pytest.mark.parametrize("pooling", ["cls", "first"])
def test_a_row_that_sees_no_other_is_refused_under_causality(pooling):
    with pytest.raises(Refused, match=rf"^model.pooling={pooling}: with causal=true .*; say last or mean$"):
        make_cell(*MODEL, "causal=true", f"model.pooling={pooling}")
    make_cell(*MODEL, "causal=true", "model.pooling=last")


def test_a_task_of_a_target_a_token_gets_no_cls():
    cell = make_cell("task=mqar_mini", "model.pooling=cls")
    task = build_task(cell)
    model = build_model(cell, cell.method, task)
    assert (cell.causal, model.encoder.front_tokens) == (True, 0)
    assert model(torch.zeros(2, cell.seq_len, dtype=torch.long)).shape == (2, cell.seq_len, task.num_classes)


def test_an_odd_head_is_refused_with_rotary_positions():
    with pytest.raises(Refused, match="head_dim=15: expected an even number for rotary positions"):
        facts(make_cell(*MODEL, "head_dim=15", "model.positions=rotary"))


@pytest.mark.parametrize(
    ("line", "flag"),
    [
        ("method=sdpa", False),
        ("method=performer", False),
        ("method=linformer method.rank=256 method.sharing=none", True),  # 2 x 2 matrices of 256 x 1024 a layer
        ("method=linformer method.rank=32 method.sharing=layerwise", True),
        ("method=linformer method.rank=4 method.sharing=layerwise", False),
        ("method=longformer model=lra_retrieval", True),  # three projections more a layer
        ("method=longformer model=lra_retrieval method.global_projections=false", False),
    ],
)
def test_parameters_beside_the_baseline_s(line, flag):
    (planned,) = plan_cells([make_cell("level=model", *line.split())])
    found, cell = planned.facts, planned.cell
    base = facts(replace(cell, method=make_cell("level=model").method)).parameters
    assert found.parameters_ratio == found.parameters / base
    record = {**new_record(planned, {}, "run"), "status": "ok"}
    row = next(iter(rows_of(record)))[1]
    assert row["parameters_ratio"] == found.parameters_ratio
    assert row["parameters_flag"] is flag
    assert (f"parameters x {found.parameters_ratio:.2f}" in cell_line(record)) is flag
    assert ("not within 10 %" in cell_table(record)) is flag
    assert "times those of sdpa" in cell_table(record)


def test_outside_a_model_there_is_no_ratio():
    (planned,) = plan_cells([make_cell("method=linformer")])
    row = next(iter(rows_of(new_record(planned, {}, "run"))))[1]
    assert (row["parameters_ratio"], row["parameters_flag"]) == (None, None)
