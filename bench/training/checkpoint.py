"""A training run on disk, so that it goes on after a kill as if nothing had happened.

One file a cell, replaced in one step. It is read by torch's restricted unpickler, which runs no code.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.errors import StoreError
from bench.store import replace_bytes
from bench.training.distributed import Group

Note = Callable[[str], None]


def silent(line: str) -> None:
    """Say nothing."""


class Checkpoints:
    """The checkpoint of one run at `path` (None: none is kept), at least `every_s` seconds apart.

    identity: what a checkpoint must be of to be taken up, such as the cell's id and the code's fingerprint.
    note: told in one line what the user should know.
    """

    def __init__(
        self,
        path: str | None = None,
        every_s: float = 0.0,
        identity: dict[str, str] | None = None,
        note: Note = silent,
        group: Group | None = None,
    ) -> None:
        self.path, self.every_s = None if path is None else Path(path), every_s
        self.identity, self.note, self.group = identity or {}, note, group or Group()
        self._last = time.monotonic()
        self._failed = False

    def due(self) -> bool:
        """Whether it is time for the next one. Only the first process of a group writes."""
        return self.path is not None and self.group.leads and time.monotonic() - self._last >= self.every_s

    def save(self, content: dict[str, Any]) -> None:
        """Write `content`. Where that fails the one before stays and the run goes on, with one note in all."""
        assert self.path is not None
        buffer = io.BytesIO()
        torch.save({"identity": self.identity, **content}, buffer)
        try:
            replace_bytes(self.path, buffer.getvalue())
        except StoreError as error:
            if not self._failed:
                self.note(
                    f"{error}; the training goes on, and resumes from the checkpoint before if it is cut off"
                )
            self._failed = True
        self._last = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The content of the checkpoint, or None with one line on why it is not used where there is one."""
        there = self.path is not None and self.group.leads and self.path.exists()
        raw = self.group.broadcast(self.path.read_bytes() if self.path is not None and there else b"")
        if not raw:
            return None
        found, trouble = _parse(raw), "it cannot be read (cut short, or no checkpoint)"
        if found is not None:
            differing = [key for key, value in self.identity.items() if found["identity"].get(key) != value]
            if not differing:
                return found
            key = differing[0]
            trouble = f"it is of another {key}, {found['identity'].get(key)} and not {self.identity[key]}"
        self.note(f"checkpoint {self.path} is not used: {trouble}; the training begins anew")
        return None


def _parse(raw: bytes) -> dict[str, Any] | None:
    try:
        found = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except Exception:  # torch raises whatever its archive reader happens to meet
        return None
    return found if isinstance(found, dict) and isinstance(found.get("identity"), dict) else None
