"""A comparison as rows of text: what the terminal and the page both show."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from stillhouse.compare.model import Comparison, Side
from stillhouse.cost.money import money
from stillhouse.metrics import Estimate
from stillhouse.report import words
from stillhouse.report.tables import NAMES, TITLES, Cell, cell, difference_cell


class ScoreRow(NamedTuple):
    """One metric of one who answered."""

    who: str
    name: str
    first: Cell | None
    second: Cell | None
    difference: Cell | None


class FactRow(NamedTuple):
    """One fact of both runs."""

    name: str
    first: str
    second: str


def score_rows(found: Comparison) -> list[ScoreRow]:
    """Every score, with its difference where it is paired."""
    paired = {(one.of, one.metric, one.against): one.difference for one in found.differences}
    rows = []
    for pair in found.scores:
        difference = paired.get((pair.who, pair.metric, pair.against)) if pair.against is not None else None
        against = {"gold": " against gold", "teacher": " against the teacher", None: ""}[pair.against]
        rows.append(
            ScoreRow(
                NAMES.get(pair.who, pair.who.capitalize()),
                f"{TITLES[pair.metric]}{against}",
                cell(pair.metric, pair.first) if pair.first is not None else None,
                cell(pair.metric, pair.second) if pair.second is not None else None,
                difference_cell(pair.metric, difference) if difference is not None else None,
            )
        )
    return rows


def fact_rows(found: Comparison) -> Iterator[FactRow]:
    """Release, promise and cost of both."""
    sides = found.first, found.second
    yield FactRow("Teacher", *(side.teacher for side in sides))
    yield FactRow("Student", *(side.student for side in sides))
    yield FactRow("Test records", *(f"{side.test_n:,}, {side.gold_n:,} with gold" for side in sides))
    yield FactRow("Threshold", *("none" if side.threshold is None else f"{side.threshold:g}" for side in sides))
    yield FactRow("Promise", *(side.promise for side in sides))
    yield FactRow("Answered alone", *(words.interval(_rest(side.fallback_rate)) for side in sides))
    yield FactRow("Errors when alone", *(_estimate(side.alone_error) for side in sides))
    for name in ("teacher", "student", "cascade"):
        yield FactRow(f"A million requests, {name}", *(_cost(side, name) for side in sides))


def _rest(share: Estimate) -> Estimate:
    return Estimate(value=1 - share.value, low=1 - share.high, high=1 - share.low, n=share.n)


def _estimate(found: Estimate | None) -> str:
    return "–" if found is None else words.interval(found)


def _cost(side: Side, name: str) -> str:
    if any(key.startswith(("prices.teacher", "prices.student")) for key in side.costs.unpriced):
        return "not all prices are given"
    return f"{money(getattr(side.costs, name))} {side.costs.currency}"
