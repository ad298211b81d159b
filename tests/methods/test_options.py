"""Every value of every option of every method: planned, run as its definition says, or refused by name."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch

from methods.adapters.optional import Unavailable
from methods.registry import METHODS, Shape, Unsupported
from tests.methods.conftest import SMALL, build, causal_choices, draw, method_class, padding, trains
from tests.methods.deviations import FLOAT32
from tests.methods.test_contract import gap

N = 37


def options(name: str) -> Iterator[tuple[str, list[Any], list[Any]]]:
    """(parameter, values to try, values that no method can mean) from the constructor's own types."""
    constructor = method_class(name).__init__
    hints = get_type_hints(constructor)
    for parameter in inspect.signature(constructor).parameters.values():
        if parameter.kind != parameter.KEYWORD_ONLY or parameter.name in ("layer", "generator"):
            continue
        kind = hints[parameter.name]
        choices = get_args(kind) or (kind,)
        if get_origin(kind) is Literal:
            yield parameter.name, list(choices), ["nonsense"]
        elif bool in choices:
            yield parameter.name, [False, True], []
        elif int in choices:
            yield parameter.name, [1, 2, 3, 4, 8, 100], [-1]
        elif float in choices:
            yield parameter.name, [0.0, 0.25], [-1.0, math.nan, math.inf]
        else:
            raise AssertionError(f"{name}.{parameter.name}: no values known for {kind}")


CASES = [
    pytest.param(name, causal, parameter, value, id=f"{name}-{'causal' * causal}-{parameter}={value}")
    for name in METHODS
    for causal in causal_choices(name)
    for parameter, good, _ in options(name)
    for value in good
]
BAD = [(name, parameter, value) for name in METHODS for parameter, _, bad in options(name) for value in bad]


def planned(name: str, shape: Shape, **params: Any) -> str:
    """`ok`, or the refusal, from a construction that allocates nothing, as the plan of a sweep makes it."""
    try:
        with torch.device("meta"):
            generator = torch.Generator().manual_seed(0)
            method_class(name).layers(shape, 1, generator, **{**SMALL.get(name, {}), **params})
    except Unavailable as reason:
        pytest.skip(str(reason))
    except (Unsupported, ValueError) as refusal:
        return str(refusal)
    return "ok"


@pytest.mark.parametrize(("name", "causal", "parameter", "value"), CASES)
def test_an_option_runs_as_its_reference_or_is_refused_before_it_runs(name, causal, parameter, value):
    """Whatever a plan lets through computes what the dense reference computes, padded or not."""
    shape = Shape(2, 16, N, causal)
    verdict = planned(name, shape, **{parameter: value})
    wide = "float64" in method_class(name).capabilities.dtypes
    dtype = torch.float64 if wide else torch.float32
    if verdict != "ok":
        assert "\n" not in verdict
        with pytest.raises((Unsupported, ValueError)):
            build(name, shape, dtype, **{parameter: value})
        return
    method = build(name, shape, dtype, **{parameter: value})
    close = 1e-10 if wide else FLOAT32.get(name, 1e-5)
    q, k, v = (x.requires_grad_(trains(name)) for x in draw(2, shape, dtype=dtype))
    for mask in (None, padding(2, N)) if method.capabilities.padding else (None,):
        said = ""
        try:
            with torch.set_grad_enabled(value != "flex"):
                found = method(q, k, v, key_padding_mask=mask)
        except Unsupported as reason:  # what only the device and the inputs tell
            said = str(reason)
        if said:
            assert str(value) in said
            return
        wanted = method.dense_reference(q, k, v, key_padding_mask=mask)
        real = slice(None) if mask is None else ~mask
        assert gap(found.transpose(1, 2)[real], wanted.transpose(1, 2)[real]) < close


@pytest.mark.parametrize(("name", "parameter", "value"), BAD)
def test_what_no_method_can_mean_is_refused_by_name(name, parameter, value):
    verdict = planned(name, Shape(2, 16, N, causal_choices(name)[0]), **{parameter: value})
    assert verdict.startswith(f"{parameter}={value}: expected")
