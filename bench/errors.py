"""The errors that end in one clear line for the user."""

from __future__ import annotations


class BenchError(Exception):
    """Something the user can mend; the message is the whole story and says what to do."""

    exit_code = 1


class Refused(BenchError):
    """A configuration that cannot be run: nothing was started."""

    exit_code = 2


class StoreError(BenchError):
    """The results folder cannot be read or written."""
