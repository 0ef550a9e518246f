"""Near-duplicate groups, held against every pair's Jaccard similarity."""

from __future__ import annotations

import random

import pytest

from stillhouse.curation.duplicates import near_duplicate_groups, normalised, shingles


def brute_force_groups(texts: list[str], similarity: float) -> list[int]:
    """The same by comparing every text with every other, until nothing changes."""
    grams = [shingles(text) for text in texts]
    group = list(range(len(texts)))
    for i in range(len(texts)):
        for j in range(i):
            if len(grams[i] & grams[j]) / len(grams[i] | grams[j]) >= similarity and group[i] != group[j]:
                old, new = max(group[i], group[j]), min(group[i], group[j])
                group = [new if g == old else g for g in group]
    return group


def random_texts(seed: int, count: int) -> list[str]:
    """Random word sequences, most of them an earlier one with a few words changed, or none."""
    draw = random.Random(seed)
    words = [f"word{i}" for i in range(300)]
    texts: list[list[str]] = []
    while len(texts) < count:
        if texts and draw.random() < 0.7:
            text = list(draw.choice(texts))
            for _ in range(draw.randrange(5)):
                text[draw.randrange(max(0, len(text) - 8), len(text))] = draw.choice(words)
        else:
            text = draw.choices(words, k=draw.randrange(1, 60))
        texts.append(text)
    return [" ".join(text) + draw.choice(["", "!", " ?"]) for text in texts]


@pytest.mark.parametrize("similarity", [0.3, 0.5, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_groups_are_those_of_every_pair(seed: int, similarity: float) -> None:
    texts = random_texts(seed, 250)
    found = near_duplicate_groups(texts, similarity=similarity, seed=seed)
    assert found == brute_force_groups(texts, similarity)
    assert 1 < len(set(found)) < len(texts)


def test_pairs_just_similar_enough_are_not_missed() -> None:
    # Each pair shares 8 of 10 grams: exactly the similarity asked for, where a sketch is most likely to fail.
    texts = []
    for i in range(400):
        shared = [f"t{i}w{j}" for j in range(10)]
        texts += [" ".join([*shared, f"t{i}end"]), " ".join([f"t{i}start", *shared])]
    grams = [shingles(text) for text in texts[:2]]
    assert len(grams[0] & grams[1]) / len(grams[0] | grams[1]) == 0.8
    groups = near_duplicate_groups(texts, similarity=0.8, seed=0)
    assert groups == [i // 2 * 2 for i in range(800)]


def test_a_group_is_named_after_its_first_text() -> None:
    a, b = "one two three four five six seven", "x y z"
    # c is like a and like d, which are not like each other.
    c = "one two three four five six eight"
    d = "zero two three four five six eight"
    assert near_duplicate_groups([b, d, a, c], similarity=0.6, seed=1) == [0, 1, 1, 1]


@pytest.mark.parametrize(
    ("text", "other", "equal"),
    [
        ("Good  film", "good film\n", True),
        ("good film :)", "good film :(", False),
        ("x > 1", "x < 1", False),
        ("👍", "👎", False),
        ("", " ", True),
    ],
)
def test_exact_duplicates_differ_in_case_and_spacing_alone(text: str, other: str, equal: bool) -> None:
    assert (normalised(text) == normalised(other)) == equal


def test_texts_without_words_are_told_apart() -> None:
    assert near_duplicate_groups(["👍", "👎", "👍 ", "", "ok"], similarity=0.8, seed=0) == [0, 1, 0, 3, 4]


def test_shingles_see_words_alone() -> None:
    assert shingles("The film, (really) GOOD!") == {"the film really", "film really good"}
    assert shingles("two words") == {"two words"}
