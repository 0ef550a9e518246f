"""The risk-coverage curve as coordinates for an inline SVG; the template draws it."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from stillhouse.report.model import CurvePoint

# The drawing's units. Small, so that 12-unit text is still legible where the picture is 340 pixels wide.
WIDTH, HEIGHT = 440, 270
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 12, 44


class Tick(NamedTuple):
    """A mark on an axis."""

    at: float  # units along the axis
    share: float  # what it stands for, 0..1


class Chart(NamedTuple):
    """Where everything lies, in units of the drawing (x to the right, y down)."""

    line: str  # points of the curve, "x,y x,y"
    band: str  # closed polygon of its 95% intervals
    x_ticks: list[Tick]  # coverage
    y_ticks: list[Tick]  # risk
    alpha_y: float  # the promised risk
    chosen: tuple[float, float] | None  # the policy's threshold on the curve


def risk_coverage_chart(points: Sequence[CurvePoint], *, alpha: float, threshold: float | None) -> Chart:
    """Lays out the curve of `points` (coverage ascending), the promise `alpha` and the point of `threshold`.

    The first few records make the curve jump anywhere, so the risk axis ends a little above the highest
    risk from a coverage of 10% on; what lies above is left to the template to clip.
    """
    steady = [point.risk.value for point in points if point.coverage >= 0.1]
    step = _step(max([alpha, *steady]))
    top = min(1.0, step * math.ceil(1.1 * max([alpha, *steady]) / step))

    def x(coverage: float) -> float:
        return round(LEFT + coverage * (WIDTH - LEFT - RIGHT), 1)

    def y(risk: float) -> float:
        return round(HEIGHT - BOTTOM - risk / top * (HEIGHT - TOP - BOTTOM), 1)

    accepted = [p for p in points if threshold is not None and p.threshold >= threshold]
    return Chart(
        line=_path(points, x, lambda p: y(p.risk.value)),
        band=" ".join(
            (
                _path(points, x, lambda p: y(p.risk.high)),
                _path(points[::-1], x, lambda p: y(p.risk.low)),
            )
        ),
        x_ticks=[Tick(x(i / 4), i / 4) for i in range(5)],
        y_ticks=[Tick(y(i * step), i * step) for i in range(round(top / step) + 1)],
        alpha_y=y(alpha),
        chosen=(x(accepted[-1].coverage), y(min(accepted[-1].risk.value, top))) if accepted else None,
    )


def _path(points: Sequence[CurvePoint], x: Callable[[float], float], y: Callable[[CurvePoint], float]) -> str:
    return " ".join(f"{x(point.coverage)},{y(point)}" for point in points)


def _step(highest: float) -> float:
    """A round distance between ticks that gives three to six of them."""
    return next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.25) if highest / step <= 5)
