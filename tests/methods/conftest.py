"""Small instances of every registered method, so that a new method is tested by existing."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from methods.adapters.optional import Unavailable
from methods.registry import METHODS, Attention, Shape
from tests.methods.deviations import DEVIATIONS

#: Budgets that fit tests of a few dozen tokens. A method that is not named here runs with its defaults.
SMALL: dict[str, dict[str, Any]] = {
    "hf_longformer": {"window": 8, "global_tokens": 2},
    "hf_bigbird": {"block": 4, "random_blocks": 1},
    "hf_nystromformer": {"landmarks": 6},
    "hf_reformer": {"rounds": 2, "chunk": 8},
    "lucidrains_linformer": {"rank": 6},
    "lucidrains_local": {"window": 8},
    "lucidrains_nystromformer": {"landmarks": 6},
    "lucidrains_performer": {"features": 24},
    "lucidrains_reformer": {"rounds": 2, "chunk": 4},
    "longformer": {"window": 8, "global_tokens": 2},
    "local": {"window": 5, "sinks": 2},
    "bigbird": {"block": 4, "random_blocks": 2, "allow_short": True},
    "bigbird_etc": {"block": 4, "global_tokens": 3, "max_distance": 2},
    "flex": {"kernel": "eager"},
    "topk": {"keys": 4},
    "linformer": {"rank": 6},
    "nystromformer": {"landmarks": 6},
    "performer": {"features": 24},
    "reformer": {"rounds": 2, "chunk": 8},
}

#: Parameters with which a method equals softmax attention over 32 tokens, where it has such a limit.
EXACT_AT: dict[str, dict[str, Any]] = {
    "topk": {"keys": 32},
    "longformer": {"window": 64},
    "local": {"window": 32},
    "bigbird": {"block": 32},
    "bigbird_etc": {"block": 32, "max_distance": 0},
    "nystromformer": {"landmarks": 32, "pinv": "exact"},
    "hf_longformer": {"window": 64},
    "lucidrains_local": {"window": 64},
}

#: Exponents of N in operations and in memory, where they are not 1 (operations: 2 for exact methods) and 1.
GROWTH: dict[str, tuple[float, float]] = {
    "full": (2.0, 2.0),
    "flex": (2.0, 2.0),  # as it runs here, uncompiled
    "topk": (2.0, 1.0),
    "hf_bigbird": (1.0, 2.0),  # it fills a matrix of all probabilities
    "lucidrains_reformer": (1.0, 2.0),  # it hashes into N / chunk buckets at once
}

#: Parameters under which finite differences see the whole gradient: a stabiliser is a constant of it, on purpose.
SMOOTH: dict[str, dict[str, Any]] = {
    "performer": {"eps": 0.0},
}


def method_class(name: str) -> type[Attention]:
    module, _, attribute = METHODS[name].rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def build(name: str, shape: Shape, dtype: torch.dtype = torch.float64, **params: Any) -> Attention:
    """Skips the test where the method needs a package or a device that is not here."""
    cls = method_class(name)
    try:
        made = cls(shape, generator=torch.Generator().manual_seed(0), **{**SMALL.get(name, {}), **params})
    except Unavailable as reason:
        pytest.skip(f"{name}: {reason}")
    devices, dtypes = cls.capabilities.devices, cls.capabilities.dtypes
    if devices and "cpu" not in devices:
        pytest.skip(f"{name} runs on {', '.join(devices)}")
    if str(dtype).removeprefix("torch.") not in dtypes:
        pytest.skip(f"{name} takes {', '.join(dtypes)}")
    return made.to(dtype).eval()


def layers(name: str, shape: Shape, count: int, dtype: torch.dtype = torch.float32) -> list[Attention]:
    """All layers of a model, as `build` makes one."""
    build(name, shape, dtype)
    generator = torch.Generator().manual_seed(0)
    return [layer.to(dtype) for layer in method_class(name).layers(shape, count, generator, **SMALL.get(name, {}))]


def trains(name: str) -> bool:
    """Whether there is a backward here."""
    return "cpu" not in method_class(name).capabilities.forward_only


def draw(batch: int, shape: Shape, n: int | None = None, dtype: torch.dtype = torch.float64, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    size = (batch, shape.heads, n or shape.seq_len, shape.head_dim)
    return [torch.randn(size, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for _ in "qkv"]


def padding(batch: int, n: int) -> torch.Tensor:
    """Row 0 loses its last third; the others are whole."""
    mask = torch.zeros(batch, n, dtype=torch.bool)
    mask[0, n - n // 3 :] = True
    return mask


def causal_choices(name: str) -> list[bool]:
    capabilities = method_class(name).capabilities
    return [False] * capabilities.bidirectional + [True] * capabilities.causal


CASES = [(name, causal) for name in METHODS for causal in causal_choices(name)]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{'causal' if case[1] else 'bidirectional'}")
def case(request) -> Iterator[tuple[str, bool]]:
    with torch.set_grad_enabled(trains(request.param[0])):
        yield request.param


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tests are too small to share, and threads that wait for each other on a busy machine take seconds."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Known deviations of third-party code are expected to fail, each where it is listed."""
    for item in items:
        params = getattr(getattr(item, "callspec", None), "params", {})
        name, causal = params.get("case", (params.get("name"), False))
        known = DEVIATIONS.get(name, {}) | (DEVIATIONS.get(f"{name}-causal", {}) if causal else {})
        why = known.get(getattr(item, "originalname", ""))
        if why:
            item.add_marker(pytest.mark.xfail(reason=why, strict=True))
