"""The drift baseline: what requests and answers looked like on the test records, for a later check to compare with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pyarrow
from pydantic import Field

from stillhouse.metrics import Estimate, Prediction, proportion
from stillhouse.report.part import Part
from stillhouse.report.side_by_side import Embed

MOST_EMBEDDED = 1_000
"""Test prompts that are embedded: enough for a two-sample test, 0.8 MB as float16."""

_QUANTILES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)


class Quantiles(Part):
    """How a number is spread over the test records."""

    at: tuple[float, ...] = Field(description="Shares of the records, 0..1, ascending.")
    values: tuple[float, ...] = Field(description="What as many of the records do not exceed.")
    mean: float
    n: int = Field(gt=0, description="Records.")


class Embedded(Part):
    """Where the test prompts lie among all texts."""

    model: Literal["all-MiniLM-L6-v2"] = "all-MiniLM-L6-v2"
    mean: tuple[float, ...] = Field(description="Mean of the prompts' unit vectors.")
    distance: Quantiles = Field(description="Of the prompts from that mean: 1 - cosine.")


class DriftBaseline(Part):
    """The test records in numbers; `drift_baseline.parquet` beside the report holds a sample of them one by one."""

    confidence: Quantiles = Field(description="Of the student's confidence.")
    prompt_tokens: Quantiles = Field(description="Tokens of a prompt, as the student reads it.")
    completion_tokens: Quantiles = Field(description="Tokens of the student's answers.")
    prompt_characters: Quantiles = Field(description="Characters of a record's text.")
    fallback_rate: Estimate = Field(description="Share of records that went to the teacher.")
    outside_contract: Estimate = Field(description="Share of the student's answers that break the task's contract.")
    answers: dict[str, float] | None = Field(description="Share of each answer of the student; only for choices.")
    embedded: Embedded | None = Field(description="None where nothing was embedded.")


def drift_baseline(
    predictions: Sequence[Prediction],
    threshold: float | None,
    *,
    labels: Sequence[str],
    embed: Embed | None,
    seed: int,
) -> tuple[DriftBaseline, pyarrow.Table]:
    """The numbers, and a table of up to `MOST_EMBEDDED` records to run a two-sample test on.

    Args:
        labels: the choices in graded form; empty for other tasks.

    Returns:
        The table's columns: `id`, `confidence` float32, `prompt_tokens` and `completion_tokens` int32,
        `prompt_characters` int32, `answer` (only for choices, null outside the contract) and `embedding`, float16
        [dimensions] (null where nothing was embedded).
    """
    confidence = np.array([p.confidence for p in predictions])
    alone = np.zeros(len(predictions), dtype=bool) if threshold is None else confidence >= threshold
    rng = np.random.default_rng(seed)
    count = min(MOST_EMBEDDED, len(predictions))
    chosen = [predictions[i] for i in np.sort(rng.choice(len(predictions), count, replace=False))]
    vectors = embed([p.text for p in chosen]) if embed is not None else None
    given = Counter(p.student for p in predictions)
    baseline = DriftBaseline(
        confidence=_quantiles(confidence),
        prompt_tokens=_quantiles([p.student_prompt_tokens for p in predictions]),
        completion_tokens=_quantiles([p.student_completion_tokens for p in predictions]),
        prompt_characters=_quantiles([len(p.text) for p in predictions]),
        fallback_rate=proportion(int((~alone).sum()), len(predictions)),
        outside_contract=proportion(given[None], len(predictions)),
        answers={label: given[label] / len(predictions) for label in labels} if labels else None,
        embedded=None if vectors is None else _embedded(vectors),
    )
    return baseline, _table(chosen, vectors, with_answers=bool(labels))


def _quantiles(values: Sequence[int] | np.ndarray) -> Quantiles:
    array = np.asarray(values, dtype=np.float64)
    return Quantiles(
        at=_QUANTILES,
        values=tuple(np.quantile(array, _QUANTILES).tolist()),
        mean=float(array.mean()),
        n=array.size,
    )


def _embedded(vectors: np.ndarray) -> Embedded:
    mean = vectors.astype(np.float64).mean(axis=0)
    # The mean of unit vectors is shorter than they are.
    distances = 1 - vectors @ mean / max(float(np.linalg.norm(mean)), 1e-12)
    return Embedded(mean=tuple(np.round(mean, 6).tolist()), distance=_quantiles(distances))


def _table(chosen: Sequence[Prediction], vectors: np.ndarray | None, *, with_answers: bool) -> pyarrow.Table:
    halves = [None] * len(chosen) if vectors is None else list(vectors.astype(np.float16))
    return pyarrow.table(
        {
            "id": pyarrow.array([p.id for p in chosen], pyarrow.string()),
            "confidence": pyarrow.array([p.confidence for p in chosen], pyarrow.float32()),
            "prompt_tokens": pyarrow.array([p.student_prompt_tokens for p in chosen], pyarrow.int32()),
            "completion_tokens": pyarrow.array([p.student_completion_tokens for p in chosen], pyarrow.int32()),
            "prompt_characters": pyarrow.array([len(p.text) for p in chosen], pyarrow.int32()),
            "answer": pyarrow.array([p.student if with_answers else None for p in chosen], pyarrow.string()),
            "embedding": pyarrow.array(halves, pyarrow.list_(pyarrow.float16())),
        }
    )
