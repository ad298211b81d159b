"""Compiling with numba, the result kept on disk.

numba looks at the file of a function only, and would go on using what it compiled of another file before an edit.
Hence a folder of its own for each state of this package's sources, in the data cache; where there can be none
nothing is kept, since numba would take a folder beside the sources.
"""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import Any, TypeVar

import numba
import torch

from tasks.data import CACHE_VARIABLE, CacheWarning, cache_root

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
    folder = _folder()
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(folder)
    try:
        made: Any = numba.njit(function, cache=folder is not None, nogil=True, parallel=parallel)
    finally:
        numba.config.CACHE_DIR = before
    if folder is not None and not numba.config.DISABLE_JIT:
        made._cache.save_overload = _that_may_fail(made._cache.save_overload)
    kept: Function = made
    return kept


def _that_may_fail(save: Callable[..., None]) -> Callable[..., None]:
    """numba's saving, after which the code runs even where the disk is full."""

    def tried(*args: Any) -> None:
        try:
            save(*args)
        except OSError as error:
            warnings.warn(
                f"pathfinder: what was compiled cannot be kept ({error}), and will be compiled again next time. "
                f"Set {CACHE_VARIABLE} to a writable folder with free space.",
                CacheWarning,
                stacklevel=2,
            )

    return tried


@cache
def _folder() -> Path | None:
    """Where compiled code of the present sources is kept; None where nothing can be written."""
    try:
        folder = cache_root() / "compiled" / _version()
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, RuntimeError):  # RuntimeError: no home folder
        return None
    return folder


@cache
def _version() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:24]
