"""Quality against cost over all thresholds: what each further point of quality costs, with the chosen point marked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from stillhouse.cost.tokens import TokenPrices, Tokens, unpriced
from stillhouse.metrics import Against, Estimate, Prediction, check_scores, proportion

MOST_POINTS = 200
"""A curve of more points is no more readable, only larger."""


class CostPoint(BaseModel):
    """The cascade at one threshold, on the test records."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    threshold: float | None = Field(description="Answers of at least this confidence go out alone; None: none does.")
    coverage: float = Field(ge=0, le=1, description="Share of records that the student answers alone.")
    cost: float = Field(ge=0, description="A million requests through the cascade.")
    quality: Estimate = Field(description="Share of records on which the cascade is right.")
    chosen: bool = Field(default=False, description="Whether this is the policy's threshold.")


class CostCurve(BaseModel):
    """Quality against cost, the coverage rising; exactly one point is the chosen one."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    currency: str
    against: Against = Field(description="What right means.")
    teacher_cost: float = Field(ge=0, description="A million requests, all answered by the teacher alone.")
    teacher_quality: Estimate = Field(description="Share of records on which the teacher is right.")
    student_cost: float = Field(ge=0, description="A million requests, all answered by the student alone.")
    student_quality: Estimate = Field(description="Share of records on which the student is right.")
    points: tuple[CostPoint, ...] = Field(min_length=1, max_length=MOST_POINTS)
    unpriced: tuple[str, ...] = Field(
        description="Keys of the recipe's prices that are not given: their tokens count as nothing here."
    )

    @property
    def chosen(self) -> CostPoint:
        return next(point for point in self.points if point.chosen)


def cost_curve(
    predictions: Sequence[Prediction], *, against: Against, threshold: float | None, prices: TokenPrices
) -> CostCurve:
    """The curve of the test split's predictions.

    A record's cost is that of its own tokens: the student's always, and the teacher's where it falls back, so that
    fallbacks which are longer than others cost more. Without any gold the teacher is right wherever it kept the task's
    contract.

    Args:
        threshold: the policy's; None where the student answers nothing alone.

    Raises:
        ValueError: no predictions; a confidence outside [0, 1]; or `against` is "gold" and a record has none.
    """
    right = np.array([prediction.right(against) for prediction in predictions], dtype=bool)
    confidence, right = check_scores(np.array([p.confidence for p in predictions], dtype=np.float64), right)
    teacher_right = np.array(
        [p.teacher is not None and (against == "teacher" or p.teacher == p.gold) for p in predictions], dtype=bool
    )
    teacher_tokens = [(p.teacher_prompt_tokens, p.teacher_completion_tokens) for p in predictions]
    student_tokens = [(p.student_prompt_tokens, p.student_completion_tokens) for p in predictions]
    # Tokens of a request at a price of a million of them: the cost of a million such requests.
    teacher = np.array(teacher_tokens, dtype=np.float64) @ [prices.teacher_input or 0.0, prices.teacher_output or 0.0]
    student = np.array(student_tokens, dtype=np.float64) @ [prices.student_input or 0.0, prices.student_output or 0.0]

    n, order = len(predictions), np.argsort(-confidence, kind="stable")
    scores = confidence[order]
    # Accepted records at each threshold; those of equal confidence are accepted together.
    accepted = np.concatenate([[0], np.flatnonzero(np.diff(scores)) + 1, [n]])
    rights = _before(right[order]) + (teacher_right.sum() - _before(teacher_right[order]))
    costs = student.sum() + teacher.sum() - _before(teacher[order])
    chosen = 0 if threshold is None else int((confidence >= threshold).sum())

    def point(count: int) -> CostPoint:
        own = float(scores[count - 1]) if count else None
        return CostPoint(
            threshold=threshold if count == chosen else own,
            coverage=count / n,
            cost=max(0.0, float(costs[count]) / n),
            quality=proportion(int(rights[count]), n),
            chosen=count == chosen,
        )

    return CostCurve(
        currency=prices.currency,
        against=against,
        teacher_cost=float(teacher.mean()),
        teacher_quality=proportion(int(teacher_right.sum()), n),
        student_cost=float(student.mean()),
        student_quality=proportion(int(right.sum()), n),
        points=tuple(point(count) for count in _thinned(accepted, chosen)),
        unpriced=(
            *unpriced("teacher", _mean(teacher_tokens), prices),
            *unpriced("student", _mean(student_tokens), prices),
        ),
    )


def _before(values: np.ndarray) -> np.ndarray:
    """Sums [n + 1] of the first 0, 1, ..., n values [n]."""
    return np.concatenate([[0], np.cumsum(values)])


def _thinned(accepted: np.ndarray, chosen: int) -> list[int]:
    """At most `MOST_POINTS` of the counts, evenly spread: the first, the last and the chosen one among them."""
    wanted = np.linspace(0, accepted[-1], num=min(MOST_POINTS - 1, accepted.size))
    kept = accepted[np.searchsorted(accepted, wanted, side="left")]
    return sorted({*kept.tolist(), chosen})


def _mean(tokens: Sequence[tuple[int, int]]) -> Tokens:
    prompt, completion = np.mean(tokens, axis=0)
    return Tokens(prompt=float(prompt), completion=float(completion))
