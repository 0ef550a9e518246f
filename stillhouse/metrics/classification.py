"""Answers among fixed labels: the confusion matrix, and each class by itself."""

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from stillhouse.metrics.estimate import Estimate, proportion


class ClassScore(BaseModel):
    """How one class is told from the others; a share of nothing is 0."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    label: str
    support: int = Field(ge=0, description="Records that are of this class.")
    answered: int = Field(ge=0, description="Records that were given this class.")
    precision: float = Field(ge=0, le=1, description="Of those that were given it, the share that are of it.")
    recall: float = Field(ge=0, le=1, description="Of those that are of it, the share that were given it.")
    f1: float = Field(ge=0, le=1, description="Harmonic mean of the two.")


class Classification(BaseModel):
    """Answers of a `choices` task held against a reference."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    accuracy: Estimate = Field(description="Share of right answers; one outside the contract is wrong.")
    macro_f1: float = Field(
        ge=0, le=1, description="Mean F1 of the classes that occur in the reference or the answers."
    )
    classes: tuple[ClassScore, ...] = Field(description="One a label, in the task's order.")
    counts: tuple[tuple[int, ...], ...] = Field(
        description="[labels, labels + 1]: rows are the reference, columns the answers, the last one those outside."
    )


def classification(
    reference: Sequence[str | None], answers: Sequence[str | None], labels: Sequence[str]
) -> Classification | None:
    """Accuracy, macro-F1, each class and the confusion matrix, over the records that have a reference.

    `labels` are the task's choices in graded form; None where no record has a reference among them. An answer outside
    the contract is no class: it costs its record's class recall, and no class precision. Raises ValueError when the
    lengths differ.
    """
    counts = np.array(confusion(reference, answers, labels), dtype=np.int64)
    if not counts.sum():
        return None
    right, support, answered = np.diagonal(counts), counts.sum(axis=1), counts[:, :-1].sum(axis=0)
    f1 = _share(2 * right, support + answered)
    precision, recall = _share(right, answered), _share(right, support)
    return Classification(
        accuracy=proportion(int(right.sum()), int(support.sum())),
        macro_f1=float(f1[support + answered > 0].mean()),
        classes=tuple(
            ClassScore(
                label=label,
                support=int(support[i]),
                answered=int(answered[i]),
                precision=float(precision[i]),
                recall=float(recall[i]),
                f1=float(f1[i]),
            )
            for i, label in enumerate(labels)
        ),
        counts=tuple(tuple(row) for row in counts.tolist()),
    )


def codes(answers: Sequence[str | None], labels: Sequence[str]) -> np.ndarray:
    """Labels as their places, int64 [n]; what is none of them (or None) is `len(labels)`."""
    position: dict[str | None, int] = {label: index for index, label in enumerate(labels)}
    return np.array([position.get(answer, len(labels)) for answer in answers], dtype=np.int64)


def macro_f1(reference: np.ndarray, answers: np.ndarray, *, labels: int, counts: np.ndarray) -> np.ndarray:
    """Macro-F1 [...] of `codes` [kinds], each of which occurs `counts` [..., kinds] times, as `classification` has it.

    Every reference is one of the labels, that is below `labels`. The mean is over the classes that occur.
    """
    places = np.arange(labels)
    is_reference, is_answer = reference[:, None] == places, answers[:, None] == places
    # In float64, which BLAS multiplies: counts are exact in it.
    occurring = counts.astype(np.float64) @ (is_reference.astype(np.float64) + is_answer)
    right = counts.astype(np.float64) @ (is_reference & is_answer).astype(np.float64)
    found: np.ndarray = _share(2 * right, occurring).sum(axis=-1) / np.maximum(1, (occurring > 0).sum(axis=-1))
    return found


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Their quotient, and 0 where there is nothing."""
    return np.divide(part, whole, out=np.zeros(np.shape(whole), dtype=np.float64), where=whole > 0)


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
