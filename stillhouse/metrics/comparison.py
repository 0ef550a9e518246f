"""Models side by side on the same records: each metric with its interval, and every difference with its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from stillhouse.metrics.bootstrap import Measured, Statistic, bootstrap, mean
from stillhouse.metrics.classification import codes, macro_f1
from stillhouse.metrics.estimate import proportion
from stillhouse.metrics.fields import leaf_counts, micro_f1
from stillhouse.metrics.predictions import Against
from stillhouse.metrics.texts import ALIKE, rouge_l

Answers = Sequence[str | None]
Columns = tuple[np.ndarray, ...]
Cosine = Callable[[Answers, Sequence[str]], np.ndarray]
"""Of answers and references to the cosine of their embeddings, float64 [n]; 0 for no answer."""


@dataclass(frozen=True)
class Metric:
    """What is measured, in a form that can be resampled.

    Attributes:
        columns: from answers and references to what is known of each record, arrays [n].
        statistic: from these, and how often each kind of record occurs, to the metric.
        share: whether it is the mean of zeros and ones.
    """

    name: str
    columns: Callable[[Answers, Sequence[str]], Columns]
    statistic: Statistic = mean
    share: bool = False


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


def metrics_of(
    kind: Literal["choices", "json", "text"], labels: Sequence[str] = (), *, cosine: Cosine | None = None
) -> tuple[Metric, ...]:
    """The metrics of a task's contract; the last share among them says which answers are right.

    Args:
        labels: the choices in graded form.
        cosine: for `text`: of the embeddings of answers and references; None: similarity is not measured.
    """
    if kind == "choices":
        return (
            Metric("accuracy", _exact, share=True),
            Metric(
                "macro_f1",
                lambda answers, reference: (codes(reference, labels), codes(answers, labels)),
                partial(macro_f1, labels=len(labels)),
            ),
        )
    exact = Metric("exact_match", _exact, share=True)
    if kind == "json":
        return (exact, Metric("field_f1", leaf_counts, micro_f1))
    rouge = Metric("rouge_l", lambda answers, truth: (rouge_l(answers, truth),))
    if cosine is None:
        return (exact, rouge)
    return (
        exact,
        rouge,
        Metric("similarity", lambda answers, truth: (cosine(answers, truth),)),
        Metric("alike", lambda answers, truth: ((cosine(answers, truth) > ALIKE).astype(np.float64),), share=True),
    )


def measure(metric: Metric, answers: Answers, reference: Answers, *, seed: int = 0) -> Measured | None:
    """One metric of one model, over the records that have a reference; None where none has.

    A share has its Wilson interval, which has a width at 0 and 1 too; anything else that of the bootstrap. Raises
    ValueError when the lengths differ.
    """
    pairs = [(given, truth) for given, truth in zip(answers, reference, strict=True) if truth is not None]
    if not pairs:
        return None
    columns = metric.columns([given for given, _ in pairs], [truth for _, truth in pairs])
    if not metric.share:
        return bootstrap(columns, metric.statistic, seed=seed)
    share = proportion(int(columns[0].sum()), len(pairs))
    return Measured(value=share.value, low=share.low, high=share.high, n=share.n)


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
                    first=float(metric.statistic(*columns[first], counts=np.ones(len(truth)))),
                    second=float(metric.statistic(*columns[second], counts=np.ones(len(truth)))),
                    difference=bootstrap(
                        (*columns[first], *columns[second]),
                        partial(_difference, metric.statistic, len(columns[first])),
                        seed=seed,
                    ),
                )
            )
    return found


def _difference(statistic: Statistic, width: int, *columns: np.ndarray, counts: np.ndarray) -> np.ndarray:
    found: np.ndarray = statistic(*columns[:width], counts=counts) - statistic(*columns[width:], counts=counts)
    return found


def _exact(answers: Answers, reference: Sequence[str]) -> Columns:
    return (np.array([answer == truth for answer, truth in zip(answers, reference, strict=True)], dtype=np.float64),)
