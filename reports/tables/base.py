"""A table of text cells, and what it looks like in Markdown, LaTeX and CSV."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from reports.text import latex, markdown

Look = Literal["text", "number", "failure", "empty"]


@dataclass(frozen=True)
class Cell:
    """One field: what it says, and `note`, which a page shows on demand."""

    text: str
    look: Look = "text"
    bold: bool = False
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table to read (`header`, `rows`), and the same facts as tidy numbers (`data`)."""

    name: str
    title: str
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    data: pd.DataFrame

    def to_markdown(self) -> str:
        """A GitHub table with its title and caption."""
        body = [self._line(self.header, markdown), self._line(["---"] * len(self.header), str)]
        body += [self._line([self._mark(cell) for cell in row], str) for row in self.rows]
        return f"**{markdown(self.title)}**\n\n" + "\n".join(body) + f"\n\n{markdown(self.caption)}\n"

    def to_latex(self) -> str:
        """A `table` environment for the package booktabs."""
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{latex(self.title)}. {latex(self.caption)}}}",
            rf"\label{{tab:{self.name}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(self.header) - 1)}}}",
            r"\toprule",
            " & ".join(latex(name) for name in self.header) + r" \\",
            r"\midrule",
            *(" & ".join(self._typeset(cell) for cell in row) + r" \\" for row in self.rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"

    def to_csv(self) -> str:
        """The tidy numbers behind the table."""
        return str(self.data.to_csv(index=False, lineterminator="\n"))

    @staticmethod
    def _line(fields: tuple[str, ...] | list[str], escape: Callable[[str], str]) -> str:
        return "| " + " | ".join(escape(field) for field in fields) + " |"

    @staticmethod
    def _mark(cell: Cell) -> str:
        text = markdown(cell.text)
        return f"**{text}**" if cell.bold else text

    @staticmethod
    def _typeset(cell: Cell) -> str:
        # A row that starts with a bracket would be read as the optional argument of the line before.
        text = latex(cell.text).replace("[", "{[}", 1) if cell.text.startswith("[") else latex(cell.text)
        return rf"\textbf{{{text}}}" if cell.bold else text
