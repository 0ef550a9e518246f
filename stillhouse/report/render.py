"""A `Report` as one HTML file: inline style and pictures, no script, nothing fetched."""

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from stillhouse.report import chart, words
from stillhouse.report.model import CurvePoint, Report

_COVERAGES = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


def render_html(report: Report) -> str:
    """The report as a self-contained HTML document; every text of the report is escaped."""
    calibration = report.release.calibration
    return (
        _environment()
        .get_template("report.html")
        .render(
            report=report,
            chart=chart.risk_coverage_chart(report.curve, alpha=calibration.alpha, threshold=calibration.threshold),
            geometry=chart,
            milestones=_milestones(report.curve),
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("stillhouse", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["zip"] = zip
    environment.filters |= {
        "percent": words.percent,
        "measured": words.measured,
        "money": words.money,
        "confidence": words.confidence,
    }
    return environment


def _milestones(curve: list[CurvePoint]) -> list[CurvePoint]:
    """The curve in a few rows, for who cannot see the picture: the first point at each of some coverages."""
    found = [next(p for p in curve if p.coverage >= coverage - 1e-9) for coverage in _COVERAGES]
    return list(dict.fromkeys(found))
