"""The quality table and the differences as cells of text: what the HTML and the terminal both show."""

from __future__ import annotations

from typing import NamedTuple

from stillhouse.metrics import Against
from stillhouse.metrics.bootstrap import Measured
from stillhouse.metrics.comparison import Difference
from stillhouse.report import words
from stillhouse.report.side_by_side import SideBySide

TITLES = {
    "validity": "Valid JSON",
    "accuracy": "Accuracy",
    "macro_f1": "Macro-F1",
    "exact_match": "Exact match",
    "field_f1": "Field F1",
    "rouge_l": "ROUGE-L",
    "similarity": "Similarity",
    "alike": "Similarity above 0.9",
}

_DECIMAL = {"rouge_l", "similarity"}
"""Metrics that are no shares, and are written as numbers."""

NAMES = {"majority": "Majority class", "tfidf": "TF-IDF", "tfidf_gold": "TF-IDF on gold"}


class Title(NamedTuple):
    """A column."""

    metric: str
    title: str


class Cell(NamedTuple):
    """A number with its interval; `sign` is `good` or `bad` where a difference's interval leaves 0 out."""

    value: str
    interval: str
    sign: str = ""


class Row(NamedTuple):
    """Cells in the order of the columns, None where nothing was measured."""

    who: str
    name: str
    cells: list[Cell | None]


class QualityTable(NamedTuple):
    """Everything that was held against one reference."""

    against: Against
    metrics: list[Title]
    rows: list[Row]
    compared: list[Title]
    differences: list[Row]


def tables(found: SideBySide) -> list[QualityTable]:
    """One table a reference, gold's first."""
    against = dict.fromkeys(one.against for row in found.rows for one in row.scores if one.against is not None)
    return [_table(found, reference) for reference in sorted(against, key=lambda one: one != "gold")]


def name_of(found: SideBySide, who: str) -> str:
    """A model or baseline, as a row's head."""
    label = next((baseline.label for baseline in found.baselines if baseline.who == who), None)
    return f"Always “{label}”" if label is not None else NAMES.get(who, who.capitalize())


def cell(metric: str, measured: Measured) -> Cell:
    """A metric and its interval."""
    write = _decimal if metric in _DECIMAL else words.measured
    return Cell(write(measured.value), f"{write(measured.low)} to {write(measured.high)}")


def difference_cell(metric: str, measured: Measured) -> Cell:
    """A difference, in percentage points for shares; its sign where the interval leaves 0 out."""
    write = _signed if metric in _DECIMAL else words.points
    sign = "good" if measured.low > 0 else "bad" if measured.high < 0 else ""
    return Cell(write(measured.value), f"{write(measured.low)} to {write(measured.high)}", sign)


def _table(found: SideBySide, against: Against) -> QualityTable:
    # What is held against nothing stands in the first table alone.
    alone = (None,) if against == found.reference else ()
    used = {one.metric for row in found.rows for one in row.scores if one.against in (against, *alone)}
    metrics = [name for name in TITLES if name in used]
    rows = []
    for row in found.rows:
        measured = [row.get(name, None if name == "validity" else against) for name in metrics]
        cells = [cell(name, one) if one is not None else None for name, one in zip(metrics, measured, strict=True)]
        if any(cells):  # whoever is the reference is always right
            rows.append(Row(row.who, name_of(found, row.who), cells))
    of = {(one.of, one.minus, one.metric): one for one in found.differences if one.against == against}
    compared = [name for name in TITLES if any(name == metric for _, _, metric in of)]
    differences = [
        Row(first, f"{name_of(found, first)} − {name_of(found, second)}", _cells(of, first, second, compared))
        for first, second in dict.fromkeys((first, second) for first, second, _ in of)
    ]
    return QualityTable(
        against=against,
        metrics=[Title(name, TITLES[name]) for name in metrics],
        rows=rows,
        compared=[Title(name, TITLES[name]) for name in compared],
        differences=differences,
    )


def _cells(
    of: dict[tuple[str, str, str], Difference], first: str, second: str, metrics: list[str]
) -> list[Cell | None]:
    return [
        difference_cell(metric, one.difference) if (one := of.get((first, second, metric))) is not None else None
        for metric in metrics
    ]


def _decimal(value: float) -> str:
    return f"{value:.3f}"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")
