"""The registered tasks, and everything of this package that the harness may import."""

from __future__ import annotations

from tasks.base import IGNORE, Examples, MissingData, SplitName, Task, score
from tasks.data import CacheWarning, data_digest
from tasks.heads import POOLINGS, SequenceHead, TokenHead

__all__ = [
    "IGNORE",
    "POOLINGS",
    "TASKS",
    "CacheWarning",
    "Examples",
    "MissingData",
    "SequenceHead",
    "SplitName",
    "Task",
    "TokenHead",
    "data_digest",
    "score",
]

#: Short name -> dotted path of the class. Files in conf/task/ set its parameters; one class may have several.
TASKS: dict[str, str] = {
    "copying": "tasks.copying.Copying",
    "duplication": "tasks.duplication.Duplication",
    "furthest_vector": "tasks.furthest_vector.FurthestVector",
    "image": "tasks.image.Image",
    "in_context_recall": "tasks.in_context_recall.InContextRecall",
    "listops": "tasks.listops.ListOps",
    "mqar": "tasks.mqar.MQAR",
    "needle": "tasks.needle.Needle",
    "pathfinder": "tasks.pathfinder.Pathfinder",
    "retrieval": "tasks.retrieval.Retrieval",
    "text": "tasks.text.Text",
}
