"""Compiling with numba, the result kept on disk.

numba looks at the file of a function only, and would go on using what it compiled of another file before an edit.
Hence a folder of its own for each state of this package's sources, in the data cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import Any, TypeVar

import numba
import torch

from tasks.data import cache_root

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """The function compiled, without Python's lock."""
    return _jit(function, parallel=False)


def compiled_parallel(function: Function) -> Function:
    """The same, with `prange` on all cores.

    Torch's number of threads is put back: numba's pool sets that of OpenMP, which is torch's too.
    """
    made = _jit(function, parallel=True)

    @wraps(function)
    def call(*args: Any) -> Any:
        before = torch.get_num_threads()
        try:
            return made(*args)
        finally:
            torch.set_num_threads(before)

    return call  # type: ignore[return-value]


def _jit(function: Function, parallel: bool) -> Function:
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(cache_root() / "compiled" / _version())
    try:
        made: Function = numba.njit(function, cache=True, nogil=True, parallel=parallel)
    except RuntimeError:  # no folder that can be written to
        made = numba.njit(function, nogil=True, parallel=parallel)
    finally:
        numba.config.CACHE_DIR = before
    return made


@cache
def _version() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:24]
