"""The registered tasks, and everything of this package that the harness may import."""

from __future__ import annotations

from tasks.base import IGNORE, Examples, SplitName, Task, score
from tasks.heads import POOLINGS, SequenceHead, TokenHead

__all__ = ["IGNORE", "POOLINGS", "TASKS", "Examples", "SequenceHead", "SplitName", "Task", "TokenHead", "score"]

#: Short name -> dotted path of the class. Files in conf/task/ set its parameters; one class may have several.
TASKS: dict[str, str] = {
    "copying": "tasks.copying.Copying",
    "listops": "tasks.listops.ListOps",
    "mqar": "tasks.mqar.MQAR",
}
