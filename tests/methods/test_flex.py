"""FlexAttention: what runs is recorded, compiled equals dense, no backward on CPUs."""

import pytest
import torch

from bench.plan import plan_cells
from methods import flex
from methods.registry import Shape, Unsupported
from tests.bench.conftest import FAST, make_cell
from tests.methods.conftest import build, draw, padding

SHAPE = Shape(2, 16, 200, causal=True)


def test_compiled_equals_dense_with_causality_and_padding():
    if flex.why_not_compiled(torch.zeros(1)):
        pytest.skip(str(flex.why_not_compiled(torch.zeros(1))))
    method = build("flex", SHAPE, torch.float32, kernel="auto")
    with torch.no_grad():
        inputs, mask = draw(2, SHAPE, dtype=torch.float32), padding(2, 200)
        mask[1, :3] = True  # rows without a key
        out = method(*inputs, key_padding_mask=mask)
        want = method.dense_reference(*inputs, key_padding_mask=mask)
    assert method.backend == "flex:compiled"
    assert (out - want).abs().max() < 1e-5
    assert bool((out[1, :, :3] == 0).all())


@pytest.mark.parametrize("causal", [False, True])
def test_the_products_of_the_eager_form(causal):
    method = build("flex", Shape(2, 16, 512, causal), torch.float32)
    with torch.no_grad(), torch.profiler.profile(with_flops=True) as profile:
        method(*draw(2, method.shape, dtype=torch.float32))
    counted = sum(event.flops for event in profile.key_averages() if event.key == "aten::bmm")
    assert method.flops(2, 512) == pytest.approx(counted, rel=0.05)


def test_auto_is_eager_where_it_cannot_compile(monkeypatch):
    method = build("flex", SHAPE, torch.float64, kernel="auto")
    with torch.no_grad():
        method(*draw(1, SHAPE, n=20))
    assert method.backend == "flex:eager"
    with torch.no_grad(), pytest.raises(Unsupported, match=r"kernel=compiled: takes float32, .*, not float64"):
        build("flex", SHAPE, torch.float64, kernel="compiled")(*draw(1, SHAPE, n=20))
    monkeypatch.setattr(flex.shutil, "which", lambda name: None)
    with torch.no_grad(), pytest.raises(Unsupported, match=r"kernel=compiled: needs a C\+\+ compiler"):
        build("flex", SHAPE, torch.float32, kernel="compiled")(*draw(1, SHAPE, n=20, dtype=torch.float32))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert flex.why_not_compiled(torch.zeros(1)) == "needs a CPU with AVX2"


def test_no_backward_on_cpu_is_said_before_anything_runs():
    method = build("flex", SHAPE, torch.float32)
    with pytest.raises(Unsupported, match="no backward on cpu"):
        method(*draw(1, SHAPE, dtype=torch.float32))
    cells = [make_cell(*FAST, "method=flex", mode) for mode in ("mode=forward", "mode=train")]
    verdicts = {item.cell.mode: item.facts.verdict for item in plan_cells(cells)}
    assert verdicts == {"forward": None, "train": ("unsupported", "mode=train: flex has no backward on cpu")}


def test_a_nan_spoils_its_row_and_no_other_head():
    method = build("flex", SHAPE)
    with torch.no_grad():
        q, k, v = draw(2, SHAPE, n=20)
        q[0, 1, 7] = torch.nan
        out = method(q, k, v)
    assert bool(out[0, 1, 7].isnan().all())
    assert int(out.isnan().any(dim=-1).sum()) == 1


def test_bad_kernel():
    with pytest.raises(ValueError, match="kernel=fast: expected one of auto, compiled, eager"):
        build("flex", SHAPE, kernel="fast")
