"""When an error counts as none, and at which scale of q and k it is quoted."""

from __future__ import annotations

import pandas as pd

#: Below this relative error a method computes exact attention, rounding aside.
EXACT = 1e-4
DEFAULT_NORM = 1.0


def at_default_norm(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows at the scale of q and k that is the default, or at the one nearest to it."""
    if frame.empty:
        return frame
    distance = (frame["qk_norm"] - DEFAULT_NORM).abs()
    nearest: pd.DataFrame = frame[distance == distance.min()]
    return nearest


def at_one_length(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows at the length with the most of them, the longest among equals."""
    if frame.empty:
        return frame
    counts = frame["seq_len"].value_counts()
    rows: pd.DataFrame = frame[frame["seq_len"] == max(counts[counts == counts.max()].index)]
    return rows


def measured(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows with an output error."""
    return frame[(frame["status"] == "ok") & frame["output_error"].notna()]


def inexact(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of methods that are not exact at every row."""
    return frame[frame.groupby("method")["output_error"].transform("max") >= EXACT]
