"""The check of the splits, fed with splits that leak."""

from __future__ import annotations

import random

import numpy as np
import pytest
from test_duplicates import random_texts

from stillhouse.curation.duplicates import shingles
from stillhouse.curation.leaks import Placed, require_no_leak
from stillhouse.errors import UserError

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def placed(*told: tuple[str, str, str]) -> list[Placed]:
    return [Placed(*each) for each in told]


@pytest.mark.parametrize("split", ["validation", "calibration", "test"])
@pytest.mark.parametrize(
    ("other", "told"),
    [
        (" ONE two three four five six seven eight nine ten", "have the same text"),
        (" ".join([*WORDS, "eleven"]), r"are near-duplicates, which share 89% of their word 3-grams"),
    ],
)
def test_a_duplicate_of_what_is_held_out_is_told(split: str, other: str, told: str) -> None:
    text = " ".join(WORDS)
    for records in (
        placed(("x", "train", "something else"), ("a", "train", text), ("b", split, other)),
        placed(("b", split, other), ("a", "train", text)),
    ):
        with pytest.raises(UserError, match=f"the splits leak: .*{told}; nothing was written") as caught:
            require_no_leak(records, similarity=0.8)
        assert "'a' in train" in str(caught.value)
        assert f"'b' in {split}" in str(caught.value)
    require_no_leak(placed(("a", "train", text), ("b", "train", other)), similarity=0.8)


def test_a_record_in_two_splits_is_told() -> None:
    records = placed(("a", "train", "some text"), ("a", "test", "some text"))
    with pytest.raises(UserError, match="the record 'a' in train and the record 'a' in test are the same"):
        require_no_leak(records, similarity=0.8)


def test_splits_that_are_held_out_do_not_share_either() -> None:
    text = " ".join(WORDS)
    with pytest.raises(UserError, match="are near-duplicates"):
        require_no_leak(placed(("a", "calibration", text), ("b", "test", text + " eleven")), similarity=0.8)


def test_texts_that_share_much_but_not_enough_pass() -> None:
    text = " ".join(WORDS)
    require_no_leak(placed(("a", "train", text), ("b", "test", text + " eleven")), similarity=0.9)
    require_no_leak(placed(("a", "train", ""), ("b", "test", "👍"), ("c", "test", "👎")), similarity=0.8)


@pytest.mark.parametrize("similarity", [0.3, 0.5, 0.8, 1.0])
def test_a_leak_is_told_exactly_where_a_pair_is_similar_enough(similarity: float) -> None:
    told = []
    for seed in range(60):
        draw = random.Random(seed)
        texts = list(dict.fromkeys(random_texts(seed, 12)))
        records = [Placed(str(i), draw.choice(["train", "train", "test"]), text) for i, text in enumerate(texts)]
        grams = [shingles(text) for text in texts]
        leaks = any(
            records[i].split != records[j].split and len(grams[i] & grams[j]) >= similarity * len(grams[i] | grams[j])
            for i in range(len(texts))
            for j in range(i)
        )
        told.append(leaks)
        if leaks:
            with pytest.raises(UserError, match="the splits leak"):
                require_no_leak(records, similarity=similarity)
        else:
            require_no_leak(records, similarity=similarity)
    assert len(set(told)) == 2, "some leak and some do not"


def test_what_means_the_same_is_told() -> None:
    vectors = np.array([[1, 0], [0.6, 0.8], [0.8, 0.6]], dtype=np.float32)
    records = placed(("a", "train", "x"), ("b", "test", "y"), ("c", "train", "z"))
    require_no_leak(records, similarity=0.8, vectors=vectors, semantic_similarity=0.97)
    with pytest.raises(
        UserError, match=r"'b' in test and the record 'c' in train mean the same, with a cosine of 0\.96"
    ):
        require_no_leak(records, similarity=0.8, vectors=vectors, semantic_similarity=0.95)
    require_no_leak(records, similarity=0.8, vectors=vectors)
