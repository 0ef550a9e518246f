"""Free texts held against a reference: ROUGE-L, and semantic similarity of embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from stillhouse.metrics.bootstrap import Measured, bootstrap
from stillhouse.metrics.estimate import Estimate, proportion
from stillhouse.metrics.words import words

SIMILARITY_GOAL = 0.85
"""Mean cosine above which two models' texts say the same, as a rule of thumb for MiniLM's embeddings."""

ALIKE = 0.9
"""Cosine from which on two texts count as the same."""


class Similarity(BaseModel):
    """Cosine of the embeddings of answers and references."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    mean: Measured = Field(description="Mean cosine, -1..1.")
    alike: Estimate = Field(description=f"Share of records whose cosine is above {ALIKE}.")
    goal: float = Field(default=SIMILARITY_GOAL, description="What the mean should be above.")
    reached: bool = Field(description="Whether it is.")


def rouge_l(answers: Sequence[str | None], reference: Sequence[str]) -> np.ndarray:
    """F1 of the longest common subsequence of words for each record, float64 [n]; no answer has 0.

    Lin 2004, aclanthology.org/W04-1013, by the package rouge-score without stemming; words of all scripts count, where
    its own tokens are ASCII alone. Raises ValueError when the lengths differ.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], tokenizer=_Words())
    return np.array(
        [
            0.0 if answer is None else scorer.score(truth, answer)["rougeL"].fmeasure
            for answer, truth in zip(answers, reference, strict=True)
        ],
        dtype=np.float64,
    )


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosine of each record's two unit vectors: [n, d] twice to float64 [n]; 0 where one of them is zeros.

    Raises ValueError when the shapes differ, or a vector's length is neither 1 nor 0.
    """
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(f"The embeddings need the same shape [n, d], but have {first.shape} and {second.shape}.")
    for vectors in (first, second):
        lengths = np.linalg.norm(vectors, axis=1)
        bad = np.flatnonzero(~((np.abs(lengths - 1) < 1e-3) | (lengths == 0)))
        if bad.size:
            raise ValueError(
                f"{bad.size} of {len(vectors)} embeddings are no unit vectors, the first has the length"
                f" {lengths[bad[0]]:.4g} in record {bad[0]}."
            )
    return np.clip(np.einsum("nd,nd->n", first, second), -1, 1)


def similarity(cosine: np.ndarray, *, seed: int = 0) -> Similarity:
    """The mean of cosines [n], and the share of those that are `ALIKE`. Raises ValueError when there are none."""
    mean = bootstrap([cosine], seed=seed)
    alike = proportion(int((cosine > ALIKE).sum()), cosine.size)
    return Similarity(mean=mean, alike=alike, reached=mean.value > SIMILARITY_GOAL)


class _Words:
    """What rouge-score calls a tokenizer."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)
