"""The report's curves as coordinates for inline SVGs; the templates draw them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from stillhouse.cost.curve import CostCurve, CostPoint
from stillhouse.metrics.reliability import ReliabilityBin
from stillhouse.report.model import CurvePoint

# The drawing's units. Small, so that 12-unit text is still legible where the picture is 340 pixels wide.
WIDTH, HEIGHT = 440, 270
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 12, 44

_COUNT_HEIGHT = 46
"""The tallest bar of the reliability diagram's counts."""

Point = tuple[float, float]


class Tick(NamedTuple):
    """A mark on an axis."""

    at: float  # units along the axis
    value: float  # what it stands for


class Chart(NamedTuple):
    """The risk-coverage curve, in units of the drawing (x to the right, y down)."""

    line: str  # points of the curve, "x,y x,y"
    band: str  # closed polygon of its 95% intervals
    x_ticks: list[Tick]  # coverage
    y_ticks: list[Tick]  # risk
    alpha_y: float  # the promised risk
    chosen: Point | None  # the policy's threshold on the curve


class Bar(NamedTuple):
    """One bin of the reliability diagram."""

    at: Point  # mean confidence and accuracy
    low_y: float  # lower end of the accuracy's interval
    high_y: float
    left: float  # the bin's own ends
    right: float
    top: float  # of the bar that stands for its records


class ReliabilityChart(NamedTuple):
    """The reliability diagram."""

    bars: list[Bar]
    line: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]


class CostChart(NamedTuple):
    """Quality against cost."""

    line: str
    band: str
    x_ticks: list[Tick]  # cost
    y_ticks: list[Tick]  # quality
    chosen: Point
    teacher: Point
    student: Point


def risk_coverage_chart(points: Sequence[CurvePoint], *, alpha: float, threshold: float | None) -> Chart:
    """Lays out the curve of `points` (coverage ascending), the promise `alpha` and the point of `threshold`.

    The first few records make the curve jump anywhere, so the risk axis ends a little above the highest
    risk from a coverage of 10% on; what lies above is left to the template to clip.
    """
    steady = [point.risk.value for point in points if point.coverage >= 0.1]
    step = _step(max([alpha, *steady]))
    top = min(1.0, step * math.ceil(1.1 * max([alpha, *steady]) / step))
    x, y = _across(0, 1), _up(0, top)
    accepted = [p for p in points if threshold is not None and p.threshold >= threshold]
    upper = [(x(p.coverage), y(p.risk.high)) for p in points]
    lower = [(x(p.coverage), y(p.risk.low)) for p in points]
    return Chart(
        line=_path([(x(p.coverage), y(p.risk.value)) for p in points]),
        band=_path([*upper, *lower[::-1]]),
        x_ticks=[Tick(x(i / 4), i / 4) for i in range(5)],
        y_ticks=[Tick(y(i * step), i * step) for i in range(round(top / step) + 1)],
        alpha_y=y(alpha),
        chosen=(x(accepted[-1].coverage), y(min(accepted[-1].risk.value, top))) if accepted else None,
    )


def reliability_chart(bins: Sequence[ReliabilityBin]) -> ReliabilityChart:
    """Lays out accuracy against confidence, and how many records each bin holds."""
    x, y = _across(0, 1), _up(0, 1)
    most = max(found.accuracy.n for found in bins)
    bars = [
        Bar(
            at=(x(found.confidence), y(found.accuracy.value)),
            low_y=y(found.accuracy.low),
            high_y=y(found.accuracy.high),
            left=x(found.low),
            right=x(found.high),
            top=round(HEIGHT - BOTTOM - _COUNT_HEIGHT * found.accuracy.n / most, 1),
        )
        for found in bins
    ]
    ticks = [i / 4 for i in range(5)]
    return ReliabilityChart(
        bars=bars,
        line=_path([bar.at for bar in bars]),
        x_ticks=[Tick(x(value), value) for value in ticks],
        y_ticks=[Tick(y(value), value) for value in ticks],
    )


def cost_chart(curve: CostCurve) -> CostChart:
    """Lays out the cascade's quality against its cost at every threshold, with the teacher and the student alone."""
    qualities = [curve.teacher_quality, curve.student_quality, *(point.quality for point in curve.points)]
    low, high = min(q.low for q in qualities), max(q.high for q in qualities)
    step = _step(high - low)
    bottom, top = step * math.floor(low / step + 1e-9), step * math.ceil(high / step - 1e-9)
    most = max(curve.teacher_cost, curve.student_cost, *(point.cost for point in curve.points))
    spacing = _round_step(most)
    right = spacing * math.ceil(most / spacing - 1e-9)
    x, y = _across(0, right), _up(bottom, top)

    def at(point: CostPoint) -> Point:
        return x(point.cost), y(point.quality.value)

    upper = [(x(point.cost), y(point.quality.high)) for point in curve.points]
    lower = [(x(point.cost), y(point.quality.low)) for point in curve.points]
    return CostChart(
        line=_path([at(point) for point in curve.points]),
        band=_path([*upper, *lower[::-1]]),
        x_ticks=[Tick(x(i * spacing), i * spacing) for i in range(round(right / spacing) + 1)],
        y_ticks=[Tick(y(bottom + i * step), bottom + i * step) for i in range(round((top - bottom) / step) + 1)],
        chosen=at(curve.chosen),
        teacher=(x(curve.teacher_cost), y(curve.teacher_quality.value)),
        student=(x(curve.student_cost), y(curve.student_quality.value)),
    )


def _across(low: float, high: float) -> Callable[[float], float]:
    return lambda value: round(LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT), 1)


def _up(low: float, high: float) -> Callable[[float], float]:
    return lambda value: round(HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)


def _path(points: Sequence[Point]) -> str:
    return " ".join(f"{x},{y}" for x, y in points)


def _step(highest: float) -> float:
    """A round distance between ticks of a share that gives three to six of them."""
    return next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.25) if highest / step <= 5)


def _round_step(highest: float) -> float:
    """A round distance between ticks of an amount that gives two to five of them."""
    tens = 10.0 ** math.floor(math.log10(highest)) if highest > 0 else 1.0
    return next(tens * factor for factor in (0.2, 0.25, 0.5, 1, 2, 2.5, 5) if highest / (tens * factor) <= 4)
