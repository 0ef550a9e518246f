"""What two runs come to, side by side."""

from __future__ import annotations

from pydantic import Field

from stillhouse.cost import Costs
from stillhouse.metrics import Against, Estimate
from stillhouse.metrics.bootstrap import Measured
from stillhouse.metrics.comparison import Difference
from stillhouse.report.part import Part


class Side(Part):
    """One of the runs."""

    run: str = Field(description="Where it lies.")
    teacher: str
    student: str
    verdict: str = Field(description="Its report's verdict.")
    released: bool
    promise: str
    threshold: float | None
    alpha: float = Field(description="Largest promised share of errors among answers given alone.")
    against: Against = Field(description="What an answer counts as wrong against.")
    fallback_rate: Estimate = Field(description="On its test records.")
    alone_error: Estimate | None = Field(description="On its test records.")
    costs: Costs = Field(description="Of a million requests, at its recipe's prices.")
    test_n: int
    gold_n: int


class ScorePair(Part):
    """One metric of one who answered, in both runs, each on its own test records."""

    who: str
    metric: str
    against: Against | None
    first: Measured | None
    second: Measured | None


class Changed(Part):
    """What is not the same in both runs; None: it is not there."""

    key: str
    first: str | None
    second: str | None


class Comparison(Part):
    """The second run held against the first."""

    first: Side
    second: Side
    scores: tuple[ScorePair, ...]
    common_n: int = Field(ge=0, description="Records that both runs tested on, by id and text.")
    differences: tuple[Difference, ...] = Field(
        description="The second run's minus the first's, on the common records, with paired bootstrap intervals; `of`"
        " and `minus` name who answered."
    )
    recipe: tuple[Changed, ...] = Field(description="Keys of the recipe.")
    lineage: tuple[Changed, ...] = Field(description="Hashes and versions that the evaluations were made from.")
    remarks: tuple[str, ...] = Field(description="What cannot be compared, and why; one sentence each.")
