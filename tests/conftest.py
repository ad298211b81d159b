"""Tests run side by side (`make test`), each process on one thread, or they would wait for each other's cores."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; also for the commands that tests run
