"""The baselines learn what is there to be learned by counting words, and nothing more."""

from __future__ import annotations

import numpy as np
import pytest

from stillhouse.metrics.baselines import majority_answers, tfidf_answers


def reviews(n: int, seed: int) -> tuple[list[str], list[str | None]]:
    rng = np.random.default_rng(seed)
    labels: list[str | None] = [["bad", "fine"][i] for i in rng.integers(0, 2, n)]
    told = {"bad": ["dull", "slow", "not good"], "fine": ["good", "warm", "not dull"]}
    texts = [f"film {rng.integers(99)} was {rng.choice(told[str(label)])}" for label in labels]
    return texts, labels


def test_it_learns_words_and_pairs_of_words() -> None:
    texts, labels = reviews(300, 0)
    test_texts, expected = reviews(200, 1)
    found = tfidf_answers(texts, labels, test_texts)
    assert np.mean([a == b for a, b in zip(found, expected, strict=True)]) > 0.95
    assert tfidf_answers(texts, labels, test_texts) == found


def test_it_reads_other_scripts() -> None:
    assert tfidf_answers(["良い映画", "悪い映画"] * 20, ["good", "bad"] * 20, ["良い本", "悪い本"]) == ["good", "bad"]


def test_what_has_no_label_is_left_out() -> None:
    assert tfidf_answers(["a", "b", "c"], ["x", None, "x"], ["b", "d"]) == ["x", "x"]
    with pytest.raises(ValueError, match="both a label and a word"):
        tfidf_answers(["a", "!"], [None, "x"], ["b"])
    with pytest.raises(ValueError):
        tfidf_answers(["a"], ["x", "y"], ["b"])


def test_the_majority_is_that_of_the_training_records() -> None:
    assert majority_answers(["b", "a", "b", None], ["one", "two"]) == ["b", "b"]
    with pytest.raises(ValueError, match="No training record"):
        majority_answers([None], ["one"])
