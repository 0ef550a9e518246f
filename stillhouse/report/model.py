"""The report's model: report.json is its dump."""

from typing import Literal

from pydantic import Field

from stillhouse.calibration import Calibration, Selection
from stillhouse.cost import Costs, Tokens
from stillhouse.cost.curve import CostCurve
from stillhouse.judge.judgement import Judgement
from stillhouse.metrics import Against, Estimate
from stillhouse.metrics.reliability import ReliabilityBin
from stillhouse.report.disagreements import WORST, Disagreement
from stillhouse.report.drift import DriftBaseline
from stillhouse.report.part import Part
from stillhouse.report.side_by_side import SideBySide
from stillhouse.report.speed import Speed


class Models(Part):
    """Who answered."""

    teacher: str = Field(description="The teacher, as the recipe names it.")
    student: str = Field(description="The student: where its first weights came from.")


class TaskSummary(Part):
    """What was asked."""

    kind: Literal["choices", "json", "text"] = Field(description="The task's output contract.")
    template: str = Field(description="The prompt template; of a chat, its messages with their roles.")
    choices: list[str] = Field(description="Answers allowed, in graded form; empty unless kind is choices.")


class Quality(Part):
    """The headline: how often answers are the very same; None where nothing is there to compare with."""

    teacher: Estimate | None = Field(description="Teacher's accuracy against gold.")
    student: Estimate | None = Field(description="Student's accuracy against gold, answering everything.")
    cascade: Estimate | None = Field(description="Cascade's accuracy against gold.")
    agreement: Estimate = Field(description="Share of records on which student and teacher give the same answer.")
    cascade_agreement: Estimate = Field(description="Share on which cascade and teacher give the same answer.")
    calibration_error: float = Field(
        ge=0, le=1, description="Expected calibration error of the student's confidence, 15 bins."
    )


class WindowRelease(Part):
    """Whole answers judged by their first tokens: a threshold and a promise of its own, and how it did on test."""

    tokens: int = Field(ge=1, description="How many of an answer's tokens the score looks at.")
    selection: Selection = Field(description="The score, and how it was picked.")
    calibration: Calibration = Field(description="The threshold and how it was chosen.")
    fallback_rate: Estimate = Field(description="Share of test records that it would send to the teacher.")
    alone_error: Estimate | None = Field(description="Errors among the others, as whole answers; None without any.")


class Release(Part):
    """The threshold, what it promises, and how it did on the test records, which it has not seen."""

    against: Against = Field(description="What an answer counts as wrong against.")
    selection: Selection = Field(description="The score that the threshold is on, and how it was picked.")
    calibration_error_before: float = Field(
        ge=0,
        le=1,
        description="Expected calibration error of the sequence probability, where the threshold was tested.",
    )
    calibration_error_after: float = Field(ge=0, le=1, description="The same of the score.")
    calibration: Calibration = Field(description="The threshold and how it was chosen.")
    promise: str = Field(description="The promise, or why there is none, in one or two sentences.")
    fallback_rate: Estimate = Field(description="Share of test records that went to the teacher.")
    alone_error: Estimate | None = Field(
        description="Errors among the test answers the student gave alone; None when there were none."
    )
    windows: list[WindowRelease] = Field(description="For streamed text; each promise stands alone.")


class Spending(Part):
    """Tokens and money."""

    teacher_tokens: Tokens = Field(description="Mean tokens of a request that the teacher answers.")
    student_tokens: Tokens = Field(description="Mean tokens of a request that the student answers.")
    per_million: Costs = Field(description="Cost of a million requests at the recipe's prices.")


class CurvePoint(Part):
    """One point of the risk-coverage curve, measured on the test records."""

    threshold: float = Field(ge=0, le=1, description="Answers of at least this confidence are accepted.")
    coverage: float = Field(ge=0, le=1, description="Share of records accepted.")
    risk: Estimate = Field(description="Errors among the accepted answers.")


class Confusion(Part):
    """The student's answers (columns) against the reference (rows)."""

    reference: Against = Field(description="What the rows are.")
    labels: list[str] = Field(description="Labels of the rows, and of the columns but the last.")
    counts: list[list[int]] = Field(
        description="[labels, labels + 1]; the last column counts answers outside the contract."
    )


class Reliability(Part):
    """A confidence beside the share of right answers."""

    score: str = Field(description="What the confidence is.")
    bins: tuple[ReliabilityBin, ...] = Field(description="Those that hold test records, confidence ascending.")


class Lineage(Part):
    """Where the numbers come from, and how to make them again."""

    created: str = Field(description="When, ISO 8601 with the time zone.")
    seed: int = Field(description="The recipe's seed.")
    hashes: dict[str, str] = Field(description="sha256 in hex, by what was hashed.")
    versions: dict[str, str] = Field(description="Versions by package, and the git commit.")
    commands: list[str] = Field(description="Commands that make this report again, in order.")


class Report(Part):
    """Everything the evaluation has to say."""

    format_version: Literal[2] = 2
    run: str = Field(description="Where the run lies.")
    name: str = Field(description="The recipe's name.")
    verdict: str = Field(description="Whether cascade and student are no worse than the teacher, in plain words.")
    summary: str = Field(description="What the release comes to: coverage, quality and cost.")
    released: bool = Field(description="Whether there is a threshold, so that the student may answer alone.")
    alarms: list[str] = Field(description="What makes all else pointless, such as a teacher worse than a baseline.")
    warnings: list[str] = Field(description="What a reader must know before trusting the numbers.")
    notes: list[str] = Field(description="Remarks of the steps before, such as where the weights come from.")
    task: TaskSummary
    models: Models
    funnel: dict[str, int] = Field(description="Records left after each step of curation, in order.")
    test_n: int = Field(gt=0, description="Test records.")
    gold_n: int = Field(ge=0, description="Test records with gold.")
    quality: Quality
    side_by_side: SideBySide
    release: Release
    spending: Spending
    curve: list[CurvePoint] = Field(description="Risk-coverage curve on the test records, coverage ascending.")
    reliability: list[Reliability] = Field(description="Of the confidence that the threshold is on.")
    cost_curve: CostCurve | None = Field(description="Quality against cost; None where the teacher has no price.")
    confusion: Confusion | None = Field(description="For choices; else None.")
    speed: Speed | None = Field(description="How fast the student answers; None where it was not measured.")
    drift: DriftBaseline | None = Field(description="What a later check for drift compares with.")
    judgement: Judgement | None = Field(description="A judge's preference; None where the recipe names no judge.")
    disagreements: list[Disagreement] = Field(
        max_length=WORST, description="Of the student with the teacher: the most confident first, or the least alike."
    )
    lineage: Lineage

    def to_json(self) -> bytes:
        """This report as JSON (UTF-8), as report.json holds it."""
        return (self.model_dump_json(indent=2) + "\n").encode()
