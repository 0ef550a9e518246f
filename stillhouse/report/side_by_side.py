"""All who could answer, on the same test records: the quality table, the differences, and what comes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from stillhouse.metrics import Against, Prediction
from stillhouse.metrics.bootstrap import Measured
from stillhouse.metrics.classification import Classification, classification
from stillhouse.metrics.comparison import Answers, Cosine, Difference, Metric, differences, measure, metrics_of
from stillhouse.metrics.estimate import proportion
from stillhouse.metrics.fields import JsonQuality, json_quality
from stillhouse.metrics.non_inferiority import NonInferiority, non_inferiority
from stillhouse.metrics.texts import Similarity, cosines, similarity
from stillhouse.report.baselines import Baseline
from stillhouse.report.part import Part

Embed = Callable[[Sequence[str]], np.ndarray]
"""Of texts to unit vectors [texts, dimensions] float32: `stillhouse.embeddings.embed`."""


class Score(Part):
    """One metric of one who answered."""

    metric: str = Field(description="accuracy, macro_f1, validity, exact_match, field_f1, rouge_l, similarity, alike.")
    against: Against | None = Field(description="What answers were held against; None: nothing, for validity.")
    measured: Measured


class Scores(Part):
    """A row of the quality table."""

    who: str = Field(description="teacher, student, cascade, or a baseline.")
    scores: tuple[Score, ...]

    def get(self, metric: str, against: Against | None) -> Measured | None:
        """The score of that name, if it was measured."""
        return next((one.measured for one in self.scores if (one.metric, one.against) == (metric, against)), None)


class Judged(Part):
    """Whether student or cascade is no worse than the teacher."""

    who: Literal["cascade", "student"]
    against: Against = Field(description="What answers are held against: gold where there is gold, else the teacher.")
    metric: str = Field(description="What makes an answer right: accuracy, exact_match, or alike.")
    found: NonInferiority


class SideBySide(Part):
    """The quality of all who could answer."""

    reference: Against = Field(description="What verdict, classes and fields are held against: gold where there is.")
    reference_n: int = Field(ge=0, description="Test records that have it.")
    right_by: str = Field(description="The metric that makes an answer right.")
    baselines: tuple[Baseline, ...] = Field(description="What keeps us honest; only for choices.")
    rows: tuple[Scores, ...] = Field(description="Teacher, student, cascade, and the baselines.")
    differences: tuple[Difference, ...] = Field(description="With paired bootstrap intervals, against gold first.")
    non_inferiority: tuple[Judged, ...] = Field(description="Of the cascade, which is released, then of the student.")
    classes: dict[str, Classification] | None = Field(description="Against the reference, by who; only for choices.")
    fields: dict[str, JsonQuality] | None = Field(description="Against the reference, by who; only for JSON.")
    similarity: dict[str, Similarity] | None = Field(description="Against the reference, by who; only for texts.")

    def row(self, who: str) -> Scores:
        return next(row for row in self.rows if row.who == who)


def side_by_side(
    predictions: Sequence[Prediction],
    cascade: Answers,
    *,
    kind: Literal["choices", "json", "text"],
    labels: Sequence[str],
    baselines: Mapping[Baseline, Sequence[str]],
    margin: float,
    cosine: Cosine | None = None,
    seed: int = 0,
) -> SideBySide:
    """Grade everybody on the test records.

    Args:
        cascade: its answers, one a record.
        labels: the choices in graded form.
        baselines: their answers.
        margin: of non-inferiority, δ.
        cosine: of texts; None: no similarity is measured, and texts are right word for word.
    """
    gold: Answers = [p.gold for p in predictions]
    teacher: Answers = [p.teacher for p in predictions]
    answers: dict[str, Answers] = {
        "teacher": teacher,
        "student": [p.student for p in predictions],
        "cascade": cascade,
        **{baseline.who: given for baseline, given in baselines.items()},
    }
    metrics = metrics_of(kind, labels, cosine=cosine)
    right_by = [metric for metric in metrics if metric.share][-1]
    has_gold = any(truth is not None for truth in gold)
    references: dict[Against, Answers] = {"gold": gold, "teacher": teacher} if has_gold else {"teacher": teacher}
    reference, truth = next(iter(references.items()))
    judged = [i for i, one in enumerate(truth) if one is not None]
    texts = [one for one in truth if one is not None]

    def shown(who: str) -> list[str | None]:
        return [answers[who][i] for i in judged]

    graded = [who for who in ("teacher", "student", "cascade") if judged and who != reference]
    pairs = [("cascade", "teacher"), ("student", "teacher"), ("cascade", "student")]
    pairs += [("student", baseline.who) for baseline in baselines]
    of_teacher = [("teacher", baseline.who) for baseline in baselines]
    return SideBySide(
        reference=reference,
        reference_n=len(judged),
        right_by=right_by.name,
        baselines=tuple(baselines),
        rows=tuple(_row(who, given, references, metrics, kind=kind, seed=seed) for who, given in answers.items()),
        differences=tuple(
            one
            for against, reference_answers in references.items()
            for one in differences(
                answers,
                reference_answers,
                against=against,
                metrics=metrics,
                # Against itself the teacher is always right.
                pairs=[*pairs, *of_teacher] if against == "gold" else pairs,
                seed=seed,
            )
        ),
        non_inferiority=tuple(
            Judged(
                who=who,
                against=reference,
                metric=right_by.name,
                found=non_inferiority(
                    _right(right_by, shown(who), texts), _right(right_by, shown("teacher"), texts), margin=margin
                ),
            )
            for who in ("cascade", "student")
            if judged
        ),
        classes={who: found for who in graded if (found := classification(texts, shown(who), labels)) is not None}
        if kind == "choices"
        else None,
        fields={who: json_quality(shown(who), texts) for who in graded} if kind == "json" else None,
        similarity={who: similarity(cosine(shown(who), texts), seed=seed) for who in graded}
        if cosine is not None
        else None,
    )


def _row(
    who: str,
    answers: Answers,
    references: Mapping[Against, Answers],
    metrics: Sequence[Metric],
    *,
    kind: str,
    seed: int,
) -> Scores:
    found: list[Score] = []
    if kind == "json":
        valid = proportion(sum(answer is not None for answer in answers), len(answers))
        share = Measured(value=valid.value, low=valid.low, high=valid.high, n=valid.n)
        found.append(Score(metric="validity", against=None, measured=share))
    for against, reference in references.items():
        for metric in metrics:
            if who != against and (measured := measure(metric, answers, reference, seed=seed)) is not None:
                found.append(Score(metric=metric.name, against=against, measured=measured))
    return Scores(who=who, scores=tuple(found))


def _right(metric: Metric, answers: Answers, reference: Sequence[str]) -> np.ndarray:
    return metric.columns(answers, reference)[0] > 0


def cosine_of(embed: Embed, columns: Sequence[Answers]) -> Cosine:
    """The cosine of any two columns of texts that are among these; every text is embedded once."""
    texts = sorted({text for column in columns for text in column if text is not None})
    vectors = embed(texts)
    place = {text: i for i, text in enumerate(texts)}
    none = np.zeros(vectors.shape[1], dtype=vectors.dtype)

    def vectors_of(answers: Answers) -> np.ndarray:
        return np.array([none if answer is None else vectors[place[answer]] for answer in answers])

    def cosine(answers: Answers, reference: Sequence[str]) -> np.ndarray:
        return cosines(vectors_of(answers), vectors_of(reference)) if answers else np.zeros(0)

    return cosine
