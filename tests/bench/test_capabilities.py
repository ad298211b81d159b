"""What a method declares that it cannot do becomes a row that says so, before anything runs."""

import pytest

from bench.plan import plan_cells
from methods.full import Full
from methods.registry import Capabilities
from tests.bench.conftest import FAST, make_cell


class Narrow(Full):
    capabilities = Capabilities(devices=("cuda",), dtypes=("float16",))


class ForwardOnly(Full):
    capabilities = Capabilities(forward_only=("cpu", "mps"))


def verdict(name: str, *overrides: str):
    target = f"method._target_={__name__}.{name}"
    cell = make_cell(*FAST, "method=custom", f"method.name={name.lower()}", target, *overrides)
    return plan_cells([cell])[0].facts.verdict


@pytest.mark.parametrize(
    ("name", "overrides", "reason"),
    [
        ("Narrow", ["hardware.dtype=float16"], "hardware.device=cpu: narrow runs on cuda"),
        ("Narrow", [], "hardware.dtype=float32: narrow takes float16"),
        ("ForwardOnly", ["mode=train"], "mode=train: forwardonly has no backward on cpu"),
        ("ForwardOnly", ["task=copying", "seq_len=64"], "mode=train: forwardonly has no backward on cpu"),
    ],
)
def test_outside_its_capabilities(name, overrides, reason):
    assert verdict(name, *overrides) == ("unsupported", reason)


def test_inside_its_capabilities():
    assert verdict("ForwardOnly") is None
