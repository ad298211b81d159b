"""Reformer's attention by locality-sensitive hashing (Kitaev, Kaiser, Levskaya 2020, arXiv 2001.04451)."""

from methods.reformer.attention import Reformer

__all__ = ["Reformer"]
