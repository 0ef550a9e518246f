"""Models side by side on the same records: each metric with its interval, and every difference with its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from stillhouse.metrics.bootstrap import Measured, Statistic, bootstrap
from stillhouse.metrics.classification import codes, macro_f1
from stillhouse.metrics.fields import leaf_counts, micro_f1
from stillhouse.metrics.predictions import Against
from stillhouse.metrics.texts import rouge_l

Answers = Sequence[str | None]
Columns = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Metric:
    """What is measured, in a form that can be resampled.

    Attributes:
        columns: from answers and references to what is known of each record, arrays [n].
        statistic: from these, resampled to [..., n], to the metric [...].
    """

    name: str
    columns: Callable[[Answers, Sequence[str]], Columns]
    statistic: Statistic = np.mean


class Difference(BaseModel):
    """How much better one model is than another, by one metric."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    metric: str
    of: str = Field(description="The model that is better where the difference is above 0.")
    minus: str = Field(description="The other one.")
    against: Against = Field(description="What both are held against.")
    first: float = Field(description="The metric of the one.")
    second: float = Field(description="The metric of the other.")
    difference: Measured = Field(description="The one minus the other, with its paired bootstrap interval.")


def metrics_of(kind: Literal["choices", "json", "text"], labels: Sequence[str] = ()) -> tuple[Metric, ...]:
    """The metrics of a task's contract; `labels` are the choices in graded form."""
    if kind == "choices":
        return (
            Metric("accuracy", _exact),
            Metric(
                "macro_f1",
                lambda answers, reference: (codes(reference, labels), codes(answers, labels)),
                partial(macro_f1, labels=len(labels)),
            ),
        )
    if kind == "json":
        return (Metric("exact_match", _exact), Metric("field_f1", leaf_counts, micro_f1))
    return (Metric("exact_match", _exact), Metric("rouge_l", lambda answers, truth: (rouge_l(answers, truth),)))


def differences(
    answers: Mapping[str, Answers],
    reference: Answers,
    *,
    against: Against,
    metrics: Sequence[Metric],
    pairs: Sequence[tuple[str, str]] = (("student", "teacher"), ("cascade", "teacher")),
    seed: int = 0,
) -> list[Difference]:
    """Every metric's difference between the models of each pair, over the records that have a reference.

    Args:
        answers: by model, in graded form, one a record.
        reference: gold, or the teacher's answers; None where a record has none.
        against: which of the two.
        pairs: of models; those that have no answers are left out.

    Raises:
        ValueError: the lengths differ.
    """
    if any(len(given) != len(reference) for given in answers.values()):
        raise ValueError("Every model needs one answer a record, None where it gave none.")
    judged = [i for i, truth in enumerate(reference) if truth is not None]
    if not judged:
        return []
    truth = [text for text in reference if text is not None]
    wanted = [pair for pair in pairs if set(pair) <= set(answers)]
    found = []
    for metric in metrics:
        columns = {
            name: metric.columns([answers[name][i] for i in judged], truth)
            for name in dict.fromkeys(name for pair in wanted for name in pair)
        }
        for first, second in wanted:
            found.append(
                Difference(
                    metric=metric.name,
                    of=first,
                    minus=second,
                    against=against,
                    first=float(metric.statistic(*columns[first], axis=-1)),
                    second=float(metric.statistic(*columns[second], axis=-1)),
                    difference=bootstrap(
                        (*columns[first], *columns[second]),
                        partial(_difference, metric.statistic, len(columns[first])),
                        seed=seed,
                    ),
                )
            )
    return found


def _difference(statistic: Statistic, width: int, *columns: np.ndarray, axis: int = -1) -> np.ndarray:
    found: np.ndarray = statistic(*columns[:width], axis=axis) - statistic(*columns[width:], axis=axis)
    return found


def _exact(answers: Answers, reference: Sequence[str]) -> Columns:
    return (np.array([answer == truth for answer, truth in zip(answers, reference, strict=True)], dtype=np.float64),)
