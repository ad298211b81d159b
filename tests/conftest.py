"""Tests run side by side (`make test`), each process on one thread, or they would wait for each other's cores."""

from __future__ import annotations

import os
import tempfile

import pytest

SIDE_BY_SIDE = "PYTEST_XDIST_WORKER" in os.environ
if SIDE_BY_SIDE:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; also for the commands that tests run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(scope="session", autouse=True)
def _own_turn(tmp_path_factory):
    """The lock of a device's turn lies in the temporary folder: with its own, no process waits for another."""
    if SIDE_BY_SIDE:
        folder = str(tmp_path_factory.getbasetemp())
        os.environ["TMPDIR"] = tempfile.tempdir = folder
