"""What a method may not change: the state of its process that all other measurements in it share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Interfered(RuntimeError):
    """A method changed what others are measured with."""


def _state() -> dict[str, object]:
    return {
        "the number of threads": torch.get_num_threads(),
        "the default dtype": torch.get_default_dtype(),
        "gradients being recorded": torch.is_grad_enabled(),
        "the precision of float32 products": torch.get_float32_matmul_precision(),
    }


@contextmanager
def unchanged(who: str = "the method") -> Iterator[None]:
    """Interfered, with what was changed, when the process is not afterwards as it was before."""
    before = _state()
    yield
    for name, value in _state().items():
        if value != before[name]:
            raise Interfered(
                f"{who} changed {name} from {before[name]} to {value}: nothing measured in its process after "
                f"that, the baseline included, can be compared"
            )
