"""The registered tasks, and everything of this package that the harness may import."""

from __future__ import annotations

from tasks.base import IGNORE, Examples, MissingData, SplitName, Task, score
from tasks.data import data_digest
from tasks.heads import POOLINGS, SequenceHead

__all__ = [
    "IGNORE",
    "POOLINGS",
    "TASKS",
    "Examples",
    "MissingData",
    "SequenceHead",
    "SplitName",
    "Task",
    "data_digest",
    "score",
]

#: Short name -> dotted path of the class. Files in conf/task/ set its parameters; one class may have several.
TASKS: dict[str, str] = {
    "copying": "tasks.copying.Copying",
    "image": "tasks.image.Image",
    "listops": "tasks.listops.ListOps",
    "mqar": "tasks.mqar.MQAR",
    "retrieval": "tasks.retrieval.Retrieval",
    "text": "tasks.text.Text",
}
