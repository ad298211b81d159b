"""Pathfinder: are two marked dots the ends of one dashed curve? With a generator of its own."""

from tasks.pathfinder.task import Pathfinder

__all__ = ["Pathfinder"]
