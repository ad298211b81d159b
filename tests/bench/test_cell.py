"""The identity of cells: content decides, and nothing else."""

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.cell import Cell, canonical, derive_seed, digest
from tests.bench.conftest import make_cell

AXES = st.fixed_dictionaries(
    {
        "method": st.sampled_from(["full", "sdpa", "longformer", "linformer", "performer"]),
        "seq_len": st.sampled_from([64, 128, 4096]),
        "heads": st.integers(1, 3),
        "mode": st.sampled_from(["forward", "train"]),
        "seed": st.integers(0, 2),
        "measure.budget_s": st.sampled_from([1.0, 2.0]),
        "hardware.threads": st.integers(1, 2),
        "hardware.dtype": st.sampled_from(["float32", "float64"]),
    }
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(AXES, AXES)
def test_different_configurations_have_different_ids(one, other):
    cells = [make_cell(*(f"{key}={value}" for key, value in axes.items())) for axes in (one, other)]
    assert (cells[0].cell_id == cells[1].cell_id) == (one == other)
    compared = ("method", "seq_len", "heads")
    assert (cells[0].config_id == cells[1].config_id) == all(one[key] == other[key] for key in compared)


@given(st.dictionaries(st.text(), st.one_of(st.integers(), st.text(), st.booleans(), st.none())))
def test_the_order_of_keys_does_not_matter(mapping):
    assert digest(mapping) == digest(dict(reversed(mapping.items())))


def test_types_matter():
    assert len({digest({"a": value}) for value in (1, True, "1", 1.5, None, [1])}) == 6


def test_spelling_a_default_does_not_change_the_identity():
    assert make_cell("method=performer").cell_id == make_cell("method=performer", "method.features=256").cell_id
    assert make_cell().cell_id == make_cell("seq_len=1024", "heads=8", "head_dim=64", "causal=false").cell_id


def test_how_to_run_is_no_part_of_the_identity():
    plain = make_cell()
    for item in (
        "timeout_s=3",
        "memory_limit_mib=99",
        "isolation=subprocess",
        "rerun=all",
        "run=x",
        "results_dir=y",
    ):
        assert make_cell(item).cell_id == plain.cell_id


def test_a_cell_survives_json():
    for cell in (
        make_cell("method=longformer"),
        make_cell("task=copying"),
        make_cell("level=model", "mode=train"),
    ):
        again = Cell.from_content(json.loads(json.dumps(cell.content())))
        assert again == cell
        assert (again.cell_id, again.config_id) == (cell.cell_id, cell.config_id)


def test_cost_and_accuracy_of_one_configuration_share_the_config_id():
    trained = make_cell("task=copying", "method=performer")
    cost = make_cell("task=copying", "method=performer", "measure=cost", "mode=train")
    assert trained.config_id == cost.config_id
    assert trained.cell_id != cost.cell_id
    assert (trained.table, cost.table) == ("accuracy", "efficiency")


def test_seeds_of_different_uses_are_different():
    assert len({derive_seed(seed, axis) for seed in range(3) for axis in ("method", "model", "inputs")}) == 9
    assert canonical({"b": 1, "a": 2}) == '{"a":2,"b":1}'
