"""The interactive twins of the figures: the same points, as data that the page's script draws and filters."""

from __future__ import annotations

from reports.charts.base import Axis, Chart, Mark, Series

__all__ = ["Axis", "Chart", "Mark", "Series"]
