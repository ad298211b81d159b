"""What a page holds for its script, read back."""

from __future__ import annotations

import json
import re
from typing import Any


def embedded(page: str) -> dict[str, Any]:
    """The JSON of a page: its `tables` by name, and its `charts` by figure."""
    texts = re.findall(r'<script type="application/json" data-table="(.*?)">(.*?)</script>', page, re.DOTALL)
    figures = re.findall(r'<figure id="[^"]*" data-chart="([^"]*)">(.*?)</figure>', page, re.DOTALL)
    assert texts
    return {
        "tables": {name: json.loads(text) for name, text in texts},
        "charts": {
            name: [json.loads(text) for text in re.findall(r"/json\">(.*?)</script>", figure, re.DOTALL)]
            for name, figure in figures
        },
    }


def values(column: Any, count: int) -> list[Any]:
    """A column in full: {"all": value}, {"of": values, "at": places} or the plain list."""
    if isinstance(column, list):
        return column
    return [column["of"][place] for place in column["at"]] if "at" in column else [column["all"]] * count


def marks(chart: dict[str, Any]) -> list[dict[str, Any]]:
    """The marks of a chart, a dictionary each."""
    columns = {name: values(column, chart["count"]) for name, column in chart["marks"].items()}
    return [dict(zip(columns, fields, strict=True)) for fields in zip(*columns.values(), strict=True)]
