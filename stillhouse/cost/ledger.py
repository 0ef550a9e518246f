"""A run's ledger: what was spent so far, what a million requests cost from here, and when that pays."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stillhouse.cost.entries import Entry, entries
from stillhouse.cost.payback import Payback, payback
from stillhouse.cost.tokens import Tokens, cost_per_million, unpriced
from stillhouse.errors import UserError
from stillhouse.recipe import Recipe
from stillhouse.run import Run, Step, steps_of

_REPORT = "evaluation/report.json"


class Serving(BaseModel):
    """Serving a million requests, at the tokens that were measured."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    teacher_tokens: Tokens = Field(description="Mean of a request that the teacher answers.")
    student_tokens: Tokens | None = Field(description="The same for the student; None before the evaluation.")
    coverage: float | None = Field(description="Share of the test records that the student answered alone; None too.")
    teacher: float | None = Field(description="A million requests, all answered by the teacher; None: without a price.")
    student: float | None = Field(description="A million requests, all answered by the student; None likewise.")
    missing: tuple[str, ...] = Field(description="Keys of the prices that are not given.")
    payback: Payback | None = Field(description="Cascade, savings and payback; None as long as a price is missing.")


class Ledger(BaseModel):
    """What a run has cost, and what it brings."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    run: str
    currency: str
    entries: tuple[Entry, ...] = Field(description="What each step has cost.")
    spent: float = Field(description="All that is known of it.")
    unknown: tuple[str, ...] = Field(description="Steps whose cost is not known, and not in `spent` as a whole.")
    missing: tuple[str, ...] = Field(description="Keys of the prices that would tell.")
    not_made: tuple[Step, ...] = Field(description="Steps that have not finished.")
    serving: Serving | None = Field(description="None before the capture has finished.")


def ledger(recipe: Recipe, run: Run, *, review_minutes: float | None = None) -> Ledger:
    """The ledger of a run at the recipe's prices.

    Args:
        review_minutes: what people spent on reviewing; None where nobody did.

    Raises:
        UserError: a manifest, the account of the capture or the report is damaged.
    """
    found = tuple(entries(recipe, run, review_minutes))
    spent = sum(item.amount or 0.0 for entry in found for item in entry.items)
    unknown = tuple(entry.step for entry in found if entry.amount is None)
    return Ledger(
        run=run.uri,
        currency=recipe.prices.currency,
        entries=found,
        spent=spent,
        unknown=unknown,
        missing=tuple(dict.fromkeys(key for entry in found for key in entry.missing)),
        not_made=tuple(step for step in steps_of(recipe) if run.manifest(step) is None),
        serving=_serving(recipe, run, None if unknown else spent),
    )


class _Share(BaseModel):
    value: float = Field(ge=0, le=1)


class _Release(BaseModel):
    fallback_rate: _Share


class _Spending(BaseModel):
    teacher_tokens: Tokens
    student_tokens: Tokens


class _Measured(BaseModel):
    """What the ledger reads of the report."""

    spending: _Spending
    release: _Release


def _serving(recipe: Recipe, run: Run, one_off: float | None) -> Serving | None:
    prices = recipe.prices
    measured = _measured(run)
    if measured is None:
        teacher_tokens, student_tokens, coverage = _captured(recipe, run), None, None
    else:
        teacher_tokens, student_tokens = measured.spending.teacher_tokens, measured.spending.student_tokens
        coverage = 1 - measured.release.fallback_rate.value
    if teacher_tokens is None:
        return None
    missing = list(unpriced("teacher", teacher_tokens, prices))
    teacher = cost_per_million(teacher_tokens, input_price=prices.teacher_input, output_price=prices.teacher_output)
    student = paid = None
    if student_tokens is not None and coverage is not None:
        missing += unpriced("student", student_tokens, prices)
        student = cost_per_million(student_tokens, input_price=prices.student_input, output_price=prices.student_output)
        if teacher is not None and student is not None:
            paid = payback(
                teacher=teacher,
                student=student,
                currency=prices.currency,
                one_off=one_off,
                monthly_requests=prices.monthly_requests,
                coverage=coverage,
            )
    return Serving(
        teacher_tokens=teacher_tokens,
        student_tokens=student_tokens,
        coverage=coverage,
        teacher=teacher,
        student=student,
        missing=tuple(missing),
        payback=paid,
    )


def _measured(run: Run) -> _Measured | None:
    if run.manifest("evaluation") is None:
        return None
    try:
        return _Measured.model_validate_json(run.storage.read(_REPORT))
    except (KeyError, ValidationError) as error:
        raise UserError(
            f"{run.uri}/{_REPORT} is not a report that this version made: run `stillhouse evaluate` again"
        ) from error


def _captured(recipe: Recipe, run: Run) -> Tokens | None:
    """Mean tokens of a completion and its prompt, as they were captured."""
    manifest = run.manifest("capture")
    if manifest is None or not manifest.counts.get("records"):
        return None
    completions = manifest.counts["records"] * recipe.capture.n
    counted = (manifest.counts[f"{side}_tokens"] / completions for side in ("prompt", "completion"))
    return Tokens(**dict(zip(("prompt", "completion"), counted, strict=True)))
