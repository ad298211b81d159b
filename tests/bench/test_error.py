"""Approximation error: zero where exact, right where known, silent where undefined."""

import math

import pytest
import torch

from bench.build import facts
from bench.measure import error
from bench.model import attention_layers
from methods.registry import METHODS
from tests.bench.conftest import make_cell
from tests.methods import conftest as budgets

SMALL = ["heads=2", "head_dim=8", "seq_len=40", "measure=error"]


def errors(*overrides):
    return error.measure(make_cell(*SMALL, *overrides))["errors"]


@pytest.mark.parametrize("causal", ["false", "true"])
@pytest.mark.parametrize("method", ["full", "sdpa", "longformer"])
def test_exact_attention_has_no_error(method, causal):
    wide = ["method.window=128", "method.global_tokens=0"] if method == "longformer" else []
    for row in errors(f"method={method}", f"causal={causal}", *wide):
        assert row["output_error"] < 1e-6
        assert row["attention_error"] < 1e-5
        assert abs(row["row_tv"]) < 1e-5
        assert 0 <= row["row_kl"] < 1e-5


@pytest.mark.parametrize("causal", ["false", "true"])
@pytest.mark.parametrize("method", ["reformer", "hf_reformer", "lucidrains_reformer"])
def test_shared_queries_and_keys_are_compared_with_exact_attention_of_that_kind(method, causal):
    """One chunk holds all tokens here, so that hashing leaves nothing out and no error remains."""
    options = [f"method={method}", "method.chunk=40", "method.rounds=1", f"causal={causal}"]
    if facts(make_cell(*SMALL, *options)).verdict:
        pytest.skip(f"{method} is not installed")
    for row in errors(*options):
        assert row["output_error"] < 1e-5
        assert row["spectral_error"] < 1e-5
        assert row["attention_error"] < 1e-5


@pytest.mark.parametrize("causal", [False, True])
def test_the_target_of_shared_queries_by_loops(causal):
    cell = make_cell("heads=2", "head_dim=8", "seq_len=9", f"causal={str(causal).lower()}", "method=reformer")
    method = attention_layers(cell, cell.method, 1)[0]
    q, v = torch.randn(2, 1, 2, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    got = error.target(method, q, q, v)
    for i in range(9):
        others = [j for j in range(9) if (j < i if causal else j != i)] or [i]
        keys = q[0, 0, others] / q[0, 0, others].norm(dim=-1, keepdim=True)
        want = (keys @ q[0, 0, i]).softmax(0) @ v[0, 0, others]
        assert torch.allclose(got[0, 0, i], want, atol=1e-12)


def test_the_spectral_error_is_that_of_singular_values():
    got, want = torch.randn(2, 3, 2, 40, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    norm = torch.linalg.matrix_norm
    assert error.spectral(got, want) == pytest.approx(float((norm(got - want, 2) / norm(want, 2)).mean()))


def test_one_row_a_norm_and_sharper_attention_is_harder():
    rows = errors("method=performer", "method.features=256", "measure.qk_norms=[0.25,1.0,2.0]")
    assert [row["qk_norm"] for row in rows] == [0.25, 1.0, 2.0]
    assert rows[0]["attention_error"] < rows[1]["attention_error"] < rows[2]["attention_error"]


def test_the_effective_matrix_is_the_matrix():
    """Longformer's is its masked softmax, which is what its dense reference computes for V = identity."""
    cell = make_cell(*SMALL, "method=longformer", "method.window=8")
    method = attention_layers(cell, cell.method, 1)[0].double()
    q, k = torch.randn(2, 1, 2, 40, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    eye = torch.eye(40, dtype=torch.float64).expand(1, 2, -1, -1)
    assert torch.allclose(error.effective_matrix(method, q, k), method.dense_reference(q, k, eye)[0], atol=1e-12)


def test_divergence_of_a_window_by_hand():
    """KL(A' || A) of a window on uniform attention is log N minus the mean log of the window's size."""
    n, window = 40, 8
    options = [f"method.window={window}", "method.global_tokens=0", "measure.qk_norms=[1e-6]"]
    row = errors("method=longformer", *options)[0]
    sizes = [min(i, window // 2) + min(n - 1 - i, window // 2) + 1 for i in range(n)]
    assert row["row_kl"] == pytest.approx(sum(math.log(n / size) for size in sizes) / n, rel=1e-4)
    assert row["row_tv"] == pytest.approx(sum(1 - size / n for size in sizes) / n, rel=1e-4)


def test_what_is_not_defined_is_empty_and_says_why():
    (row,) = errors("method=linformer", "method.rank=8", "measure.qk_norms=[1.0]")
    assert set(row) == {"qk_norm", "note"}
    assert "must be learned" in row["note"]
    long = errors("method=performer", "measure.attention_max_len=39")[0]
    assert "attention_error" not in long
    assert long["note"] == "no effective matrix: seq_len > measure.attention_max_len=39"


def test_seeds_change_inputs_and_features():
    found = {errors("method=performer", f"seed={seed}")[0]["output_error"] for seed in (0, 0, 1)}
    assert len(found) == 2


def test_negative_entries_have_no_divergence(monkeypatch):
    cell = make_cell(*SMALL, "method=full")
    minus = lambda method, q, k, padding: -torch.ones(2, 40, 40)  # noqa: E731
    monkeypatch.setattr(error, "effective_matrix", minus)
    row = error.measure(cell)["errors"][0]
    assert "row_kl" not in row
    assert row["note"] == "no row_kl: the effective matrix has negative entries"


@pytest.mark.parametrize("name", METHODS)
def test_c15_every_method_reports_its_error_or_why_not(name):
    """C15: a number for the output and the matrix, or a note in their place; no bound is asserted."""
    params = [f"++method.{key}={str(value).lower()}" for key, value in budgets.SMALL.get(name, {}).items()]
    causal = f"causal={str(budgets.causal_choices(name)[0]).lower()}"
    cell = make_cell(*SMALL, f"method={name}", causal, *params)
    if facts(cell).verdict:
        pytest.skip(facts(cell).verdict[1])
    for row in error.measure(cell)["errors"]:
        if "output_error" in row:
            assert math.isfinite(row["output_error"])
            assert "note" in row or math.isfinite(row["attention_error"] + row["row_tv"] + row["row_kl"])
        else:
            assert row["note"]
