"""A figure of a benchmark, both sides and their ratio, and a table of some."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def paired(
    name: str, ours: Sequence[float], other: Sequence[float], *, most: float | None = None, least: float | None = None
) -> dict[str, Any]:
    """The medians of two sides that were measured in turn, and the median and the range of the rounds' ratios.

    Args:
        most: what the ratio should stay below.
        least: what it should reach.
    """
    ratios = [mine / theirs for mine, theirs in zip(ours, other, strict=True)]
    spread = (min(ratios), max(ratios))
    return _figure(name, ours, other, statistics.median(ratios), spread, most=most, least=least)


def unpaired(name: str, ours: Sequence[float], other: Sequence[float], *, most: float | None = None) -> dict[str, Any]:
    """The medians and their ratio; the ends of its spread are our best over the other's worst, and the reverse."""
    ratio = statistics.median(ours) / statistics.median(other)
    return _figure(name, ours, other, ratio, (min(ours) / max(other), max(ours) / min(other)), most=most)


def _figure(
    name: str,
    ours: Sequence[float],
    other: Sequence[float],
    ratio: float,
    spread: tuple[float, float],
    *,
    most: float | None = None,
    least: float | None = None,
) -> dict[str, Any]:
    target = f"<= {most:g}" if most is not None else f">= {least:g}" if least is not None else None
    met = ratio <= most if most is not None else ratio >= least if least is not None else None
    return {
        "name": name,
        "ours": round(statistics.median(ours), 2),
        "other": round(statistics.median(other), 2),
        "ratio": round(ratio, 3),
        "spread": [round(end, 3) for end in spread],
        "target": target,
        "met": met,
    }


def show(figures: Sequence[dict[str, Any]]) -> None:
    """Print figures as a table."""
    table = Table("figure", "ours", "other", "ratio", "spread", "target", box=None)
    for one in figures:
        low, high = one["spread"]
        numbers = (f"{one['ours']:,.2f}", f"{one['other']:,.2f}", f"{one['ratio']:.3f}", f"{low:.3f} to {high:.3f}")
        table.add_row(one["name"], *numbers, one["target"] or "")
    Console(width=140).print(table)
