"""The tables of the report, each as HTML, Markdown, LaTeX and CSV."""

from __future__ import annotations

from reports.tables.base import Cell, Table

__all__ = ["Cell", "Table"]
