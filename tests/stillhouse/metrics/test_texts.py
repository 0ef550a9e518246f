"""Texts: ROUGE-L against the package's own words and a plain subsequence, cosines against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics.pairwise import cosine_similarity

from stillhouse.metrics.texts import cosines, rouge_l, similarity
from stillhouse.metrics.words import words

PAIRS = [
    ("The cat sat on the mat.", "the cat is on the mat"),
    ("a b c d e", "e d c b a"),
    ("nothing in common", "at all here"),
    ("snake_case and 3.5 items", "snake case, and 3 5 items"),
]


@pytest.mark.parametrize(("answer", "truth"), PAIRS)
def test_of_ascii_it_is_the_packages_own(answer: str, truth: str) -> None:
    expected = RougeScorer(["rougeL"]).score(truth, answer)["rougeL"].fmeasure
    assert rouge_l([answer], [truth]).tolist() == [pytest.approx(expected)]


@pytest.mark.parametrize(
    ("answer", "truth", "score"),
    [("Größe äußerst", "größe Äußerst", 1.0), ("猫は黒い", "猫は白い", 0.75), ("кот спит", "кот ест", 0.5)],
)
def test_words_of_other_scripts_count(answer: str, truth: str, score: float) -> None:
    """The package's own tokens would be none, and every score 0."""
    assert rouge_l([answer], [truth]).tolist() == [pytest.approx(score)]


def test_words() -> None:
    assert words("It's 3.5 kg_net — ÉTÉ") == ["it", "s", "3", "5", "kg", "net", "été"]


def test_cosines_are_sklearns() -> None:
    vectors = np.random.default_rng(0).normal(size=(2, 20, 384)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    assert cosines(vectors[0], vectors[1]) == pytest.approx(
        np.diag(cosine_similarity(vectors[0], vectors[1])), abs=1e-6
    )
    vectors[0, 3] = 0
    assert cosines(vectors[0], vectors[1])[3] == 0


def test_the_goal_of_similarity() -> None:
    found = similarity(np.array([0.95, 0.92, 0.9, 0.7]))
    assert (found.mean.value, found.alike.value, found.reached) == (pytest.approx(0.8675), 0.5, True)
    assert not similarity(np.array([0.85])).reached


@pytest.mark.parametrize(
    ("first", "second", "sentence"),
    [
        (np.eye(3), np.eye(3)[:2], "same shape"),
        (2 * np.eye(3), np.eye(3), "3 of 3 embeddings are no unit vectors"),
        (np.full((1, 2), np.nan), np.eye(2)[:1], "no unit vectors"),
    ],
)
def test_embeddings_that_cannot_be_compared(first: np.ndarray, second: np.ndarray, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        cosines(first, second)


def test_a_missing_answer_is_the_worst() -> None:
    assert rouge_l(["same words", None], ["same words", "other"]).tolist() == [1, 0]
