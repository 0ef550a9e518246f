"""A finished run as a comparison reads it: its report, its recipe, and its answers to the test records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from stillhouse.errors import UserError
from stillhouse.recipe import Recipe
from stillhouse.report import Report
from stillhouse.run import Run
from stillhouse.signal.schema import read_table

_COLUMNS = ["split", "id", "text", "gold", "teacher", "student", "confidence"]


@dataclass(frozen=True)
class Answered:
    """Everybody's answers to one test record, in graded form."""

    text: str
    gold: str | None
    teacher: str | None
    student: str | None
    cascade: str | None


@dataclass(frozen=True)
class Tested:
    """One of the runs."""

    report: Report
    recipe: Recipe
    answers: dict[str, Answered]


def read_tested(run: Run) -> Tested:
    """What a finished run holds.

    Raises:
        UserError: it has not been evaluated, or by another version.
    """
    run.finished("evaluation", "evaluate")
    source = f"{run.uri}/evaluation/report.json"
    try:
        report = Report.model_validate_json(run.storage.read("evaluation/report.json"))
        key = "evaluation/predictions.parquet"
        rows = read_table(run.storage.read(key), name=key).select(_COLUMNS).to_pylist()
    except KeyError as error:
        raise UserError(
            f"{run.uri}/evaluation does not hold all of an evaluation: run `stillhouse evaluate` again"
        ) from error
    except ValidationError as error:
        raise UserError(
            f"{source} is damaged, or of another version of stillhouse: run `stillhouse evaluate` again"
        ) from error
    threshold = report.release.calibration.threshold
    answers = {row["id"]: _answered(row, threshold) for row in rows if row["split"] == "test"}
    return Tested(report, run.recipe(), answers)


def _answered(row: dict[str, Any], threshold: float | None) -> Answered:
    alone = threshold is not None and row["confidence"] >= threshold
    return Answered(
        text=row["text"],
        gold=row["gold"],
        teacher=row["teacher"],
        student=row["student"],
        cascade=row["student"] if alone else row["teacher"],
    )
