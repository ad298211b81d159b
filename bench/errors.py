"""The errors that end in one clear line for the user."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class BenchError(Exception):
    """Something the user can mend; the message is the whole story and says what to do."""

    exit_code = 1


class Refused(BenchError):
    """A configuration that cannot be run: nothing was started."""

    exit_code = 2


class StoreError(BenchError):
    """The results folder cannot be read or written."""


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn a failure of the file system into a StoreError that says what to do."""
    try:
        yield
    except OSError as error:
        cause = error.strerror or str(error)
        advice = "choose another folder with results_dir=PATH"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = "free some space and run the same command again: finished cells are kept"
        raise StoreError(f"cannot write {path}: {cause}; {advice}") from error
