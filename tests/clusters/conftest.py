"""Real schedulers, started here and gone afterwards. They take minutes, so they run when they are asked for."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clusters import slurm

ASKED = "ATTNBENCH_CLUSTERS"

#: Engine -> the module that it needs, if any.
MODULES = {"shards": None, "submitit": "submitit", "ray": "ray", "dask": "distributed"}
ENGINES = [*MODULES, "slurm"]


def absent(engine: str) -> str:
    """Why an engine cannot be tested now; nothing when it can."""
    asked = os.environ.get(ASKED, "").split(",")
    if engine not in asked and "all" not in asked:
        return f"real clusters are tested by `make clusters`, or with {ASKED}={engine}"
    if engine == "slurm":
        return slurm.missing()
    module = MODULES[engine]
    if module is None or importlib.util.find_spec(module) is not None:
        return ""
    return f"{module} is not installed; `make clusters` does it"


@pytest.fixture
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The engine of a test that is parametrised by it; SLURM is started for the test."""
    name: str = request.param
    if reason := absent(name):
        pytest.skip(reason)
    if name == "slurm":
        folder: Path = request.getfixturevalue("tmp_path") / "daemons"
        with slurm.one_node(folder) as variables:
            for key, value in variables.items():
                monkeypatch.setenv(key, value)
            yield name
    else:
        yield name
