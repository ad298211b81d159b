"""Packages that an adapter needs and that may not be installed."""

from __future__ import annotations

import importlib
from types import ModuleType

import torch

from methods.base import Unsupported


class Unavailable(Unsupported):
    """What is refused is in order, but needs a package or a device that this machine does not have."""


def require(module: str, package: str | None = None, how: str | None = None) -> ModuleType:
    """The imported `module`; Unavailable, naming the `package` to install (by default the module), without it.

    `how` says how to install what pip does not find by name.
    Call it in the constructor, never at the top of a module: every registered method must import anywhere.
    """
    try:
        with torch.device("cpu"):  # a plan builds methods on the meta device; what a package makes must be real
            return importlib.import_module(module)
    except ImportError as error:
        package = package or module.partition(".")[0]
        cause = " ".join(str(error).split())
        how = how or f"pip install {package}"
        raise Unavailable(f"needs the package {package} ({how}): {cause}") from error
    except Exception as error:  # a package built for another torch or device fails in any way it likes
        cause = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise Unavailable(f"importing {module} failed on this machine: {cause[:200]}") from error
