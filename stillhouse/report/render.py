"""A `Report` as one HTML file: inline style and pictures, no script, nothing fetched."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined

from stillhouse.cost.curve import CostPoint
from stillhouse.cost.money import money
from stillhouse.metrics.bootstrap import Measured
from stillhouse.metrics.fields import JsonQuality
from stillhouse.report import chart, sentences, words
from stillhouse.report.disagreements import Disagreement, Piece, marked
from stillhouse.report.drift import DriftBaseline, Quantiles
from stillhouse.report.model import CurvePoint, Report
from stillhouse.report.side_by_side import SideBySide
from stillhouse.report.tables import tables

_COVERAGES = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
_DRIFT_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

P = TypeVar("P", CurvePoint, CostPoint)


def render_html(report: Report) -> str:
    """The report as a self-contained HTML document; every text of the report is escaped."""
    calibration = report.release.calibration
    cost_curve = report.cost_curve
    return (
        environment()
        .get_template("report.html")
        .render(
            report=report,
            tables=tables(report.side_by_side),
            percentages=report.task.kind != "text",
            right=_right(report.side_by_side),
            chart=chart.risk_coverage_chart(report.curve, alpha=calibration.alpha, threshold=calibration.threshold),
            reliability_charts=[chart.reliability_chart(series.bins) for series in report.reliability],
            cost_chart=chart.cost_chart(cost_curve) if cost_curve else None,
            cost_milestones=_cost_milestones(cost_curve.points) if cost_curve else [],
            geometry=chart,
            milestones=_milestones(report.curve, _COVERAGES),
            drift_columns=_DRIFT_QUANTILES,
            drift_rows=_drift_rows(report.drift) if report.drift else [],
            cases=[_case(report, case) for case in report.disagreements],
        )
    )


@cache
def environment() -> Environment:
    """Templates, with the report's ways to write numbers; what they fill in is escaped."""
    environment = Environment(
        loader=PackageLoader("stillhouse", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"zip": zip, "percent": words.percent, "short_money": words.short_money}
    environment.filters |= {
        "percent": words.percent,
        "measured": words.measured,
        "money": money,
        "confidence": words.confidence,
        "points": words.points,
        "seconds": words.seconds,
        "baseline_name": sentences.baseline_name,
        "field_f1": _field_f1,
        "values_at": _values_at,
    }
    return environment


def _right(found: SideBySide) -> dict[str, Measured]:
    """How often each is right, by what the verdict means by it."""
    scores = {row.who: row.get(found.right_by, found.reference) for row in found.rows}
    return {who: measured for who, measured in scores.items() if measured is not None}


def _milestones(curve: Sequence[P], coverages: Sequence[float]) -> list[P]:
    """The curve in a few rows, for who cannot see the picture: the first point at each of some coverages."""
    found = [next(p for p in curve if p.coverage >= coverage - 1e-9) for coverage in coverages]
    return list(dict.fromkeys(found))


def _cost_milestones(points: Sequence[CostPoint]) -> list[CostPoint]:
    """The same, with the chosen point among them."""
    shown = {*_milestones(points, (0.0, *_COVERAGES)), *(point for point in points if point.chosen)}
    return [point for point in points if point in shown]


def _drift_rows(drift: DriftBaseline) -> list[tuple[str, Quantiles]]:
    rows = [
        ("Confidence", drift.confidence),
        ("Prompt tokens", drift.prompt_tokens),
        ("Completion tokens", drift.completion_tokens),
        ("Characters of the text", drift.prompt_characters),
    ]
    return [*rows, ("Distance from the mean text", drift.embedded.distance)] if drift.embedded else rows


def _values_at(quantiles: Quantiles, shares: Sequence[float]) -> list[float]:
    return [quantiles.values[quantiles.at.index(share)] for share in shares]


def _field_f1(quality: JsonQuality, path: str) -> str:
    """A field's F1; a dash where neither the answers nor the reference have it."""
    return next((words.measured(field.f1) for field in quality.fields if field.path == path), "–")


def _case(report: Report, case: Disagreement) -> tuple[Disagreement, list[Piece], list[Piece], list[Piece]]:
    """A case with the pieces of student, teacher and gold."""
    student, teacher = marked(case.student, case.teacher, report.task.kind)
    gold, _ = marked(case.gold, case.gold, report.task.kind)
    return case, _unbroken(student), _unbroken(teacher), gold


def _unbroken(pieces: Sequence[Piece]) -> list[Piece]:
    """The same without marks on line breaks and indentation."""
    return [
        Piece(text, piece.differs and bool(text.strip()))
        for piece in pieces
        for text in re.split(r"(\s*\n\s*)", piece.text)
        if text
    ]
