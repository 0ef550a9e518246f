"""Quality on held-out records: accuracy and agreement with intervals, risk, calibration error."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from stillhouse.confidence import Evidence

Against = Literal["teacher", "gold"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One held-out record, answered by teacher and student: what calibration and the report are made from.

    The three answers are in graded form (`stillhouse.task.answer`), so that equal answers are equal
    strings; None is an answer outside the task's contract (for `gold`: a record without gold). `confidence`
    is the student's, in [0, 1], by the policy's score: 0 for an answer that the gateway would not trust whatever its
    logprobs, without any or outside the contract. `evidence` are those logprobs, None where the engine told none.
    `text` is the input as the report shows it. Token counts are per request, as the engine counted them.
    """

    id: str
    text: str
    gold: str | None
    teacher: str | None
    student: str | None
    confidence: float
    teacher_prompt_tokens: int
    teacher_completion_tokens: int
    student_prompt_tokens: int
    student_completion_tokens: int
    evidence: Evidence | None = None

    def right(self, against: Against) -> bool:
        """Whether the student's answer is the reference's; an answer outside the contract never is.

        Raises ValueError when `against` is "gold" and the record has none. A teacher that broke the contract
        is no reference to be right by: the record counts as wrong, which can only make a promise stricter.
        """
        if against == "gold" and self.gold is None:
            raise ValueError(
                f"Record {self.id} has no gold answer, so it cannot be judged against gold; "
                "set evaluation.against to teacher or give every record a label."
            )
        reference = self.gold if against == "gold" else self.teacher
        return self.student is not None and self.student == reference


class Estimate(BaseModel):
    """A proportion measured on n records with its two-sided 95% interval."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    value: float = Field(ge=0, le=1, description="Measured share, 0..1.")
    low: float = Field(ge=0, le=1, description="Lower end of the 95% interval.")
    high: float = Field(ge=0, le=1, description="Upper end of the 95% interval.")
    n: int = Field(gt=0, description="Records it was measured on.")


class RiskCoverage(NamedTuple):
    """Error of the accepted answers as the threshold falls; arrays are [points], coverage ascending."""

    threshold: np.ndarray  # float64; answers with confidence >= threshold are accepted
    coverage: np.ndarray  # float64, share of records accepted
    risk: np.ndarray  # float64, share of wrong answers among the accepted
    accepted: np.ndarray  # int64, records accepted
    wrong: np.ndarray  # int64, wrong answers among them


def proportion(successes: int, n: int) -> Estimate:
    """Share `successes / n` with its 95% Wilson score interval (Wilson 1927,
    doi:10.1080/01621459.1927.10502953).

    Raises ValueError when n is 0 or successes lie outside 0..n.
    """
    # scipy.stats takes most of a second to import and the gateway, which imports Estimate, never needs it.
    from scipy.stats import binomtest

    if n <= 0:
        raise ValueError("A proportion of no records is undefined.")
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes in {n} records is impossible.")
    interval = binomtest(int(successes), int(n)).proportion_ci(confidence_level=0.95, method="wilson")
    value = successes / n
    # Rounding can leave an end of the interval a hair on the wrong side of 0, 1 or the value itself.
    return Estimate(value=value, low=min(max(interval.low, 0.0), value), high=max(min(interval.high, 1.0), value), n=n)


def accuracy(answers: Sequence[str | None], gold: Sequence[str | None]) -> Estimate | None:
    """Share of answers equal to gold, over the records that have gold; None when no record has.

    An answer of None (outside the contract) counts as wrong. Raises ValueError when the lengths differ.
    """
    judged = [answer == truth for answer, truth in zip(answers, gold, strict=True) if truth is not None]
    return proportion(sum(judged), len(judged)) if judged else None


def agreement(student: Sequence[str | None], teacher: Sequence[str | None]) -> Estimate:
    """Share of records on which both gave the same answer; None never agrees, not even with None."""
    same = [a is not None and a == b for a, b in zip(student, teacher, strict=True)]
    return proportion(sum(same), len(same))


def majority(labels: Sequence[str | None]) -> tuple[str, Estimate] | None:
    """The most common label and how often always answering it would be right; None when there is no label.

    Of equally common labels the first in alphabetical order, so that a report is reproducible.
    """
    counts = Counter(label for label in labels if label is not None)
    if not counts:
        return None
    label, count = min(counts.items(), key=lambda item: (-item[1], item[0]))
    return label, proportion(count, counts.total())


def risk_coverage(confidence: np.ndarray, correct: np.ndarray) -> RiskCoverage:
    """Risk-coverage curve of `confidence` [n] float and `correct` [n] bool, one point a distinct confidence.

    Records of equal confidence are accepted together, so ties add one point
    (El-Yaniv and Wiener 2010, jmlr.org/papers/v11/el-yaniv10a). Raises ValueError as `check_scores` does.
    """
    confidence, correct = check_scores(confidence, correct)
    order = np.argsort(-confidence, kind="stable")
    scores, errors = confidence[order], np.cumsum(~correct[order])
    last = np.append(np.flatnonzero(np.diff(scores)), scores.size - 1)  # last record of each group of ties
    accepted, wrong = last + 1, errors[last]
    return RiskCoverage(scores[last], accepted / scores.size, wrong / accepted, accepted, wrong)


def area_under_risk_coverage(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Mean risk over the coverages 1/n, 2/n, …, 1: how well `confidence` [n] puts right answers first; lower is better.

    Records of equal confidence come in any order, so the errors among them count evenly. A confidence that knows
    nothing has the share of wrong answers (Geifman et al. 2019, arxiv.org/abs/1805.08206). Raises ValueError as
    `check_scores` does.
    """
    curve = risk_coverage(confidence, correct)
    errors = np.interp(np.arange(1, curve.accepted[-1] + 1), [0, *curve.accepted], [0, *curve.wrong])
    return float(np.mean(errors / np.arange(1, errors.size + 1)))


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray, *, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over `bins` bins of equal width, weighted by records, 0..1.

    `confidence` [n] float in [0, 1], `correct` [n] bool; Guo et al. 2017, arxiv.org/abs/1706.04599.
    Raises ValueError as `check_scores` does.
    """
    confidence, correct = check_scores(confidence, correct)
    index = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(index, weights=confidence - correct, minlength=bins)
    return float(np.abs(gaps).sum() / confidence.size)


def confusion(truth: Sequence[str | None], answers: Sequence[str | None], labels: Sequence[str]) -> list[list[int]]:
    """Counts [len(labels), len(labels) + 1]: rows are truth, columns the answers; the last column is "no
    label".

    An answer that is not in `labels` (or None) falls into the last column; a record whose truth is not in
    `labels` is left out.
    """
    position = {label: index for index, label in enumerate(labels)}
    counts = [[0] * (len(labels) + 1) for _ in labels]
    for true, answer in zip(truth, answers, strict=True):
        if true in position:
            column = len(labels) if answer is None else position.get(answer, len(labels))
            counts[position[true]][column] += 1
    return counts


def check_scores(confidence: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as [n] arrays (float64 and bool), checked.

    Raises ValueError when they are empty, of different shape, or a confidence is NaN or outside [0, 1].
    """
    confidence = np.asarray(confidence, dtype=np.float64)
    correct = np.asarray(correct, dtype=bool)
    if confidence.ndim != 1 or confidence.shape != correct.shape:
        raise ValueError(
            f"confidence and correct need one value a record each, but have shapes {confidence.shape} "
            f"and {correct.shape}."
        )
    if confidence.size == 0:
        raise ValueError("There are no records to score.")
    bad = np.flatnonzero(~((confidence >= 0) & (confidence <= 1)))
    if bad.size:
        raise ValueError(
            f"{bad.size} of {confidence.size} confidences are NaN or outside 0..1, "
            f"the first is {confidence[bad[0]]} in record {bad[0]}."
        )
    return confidence, correct
