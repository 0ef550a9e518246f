"""Semantic groups, held against single-linkage clustering of every pair."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage

from stillhouse.curation import semantic
from stillhouse.curation.semantic import semantic_groups


def clouds(seed: int, texts: int) -> np.ndarray:
    """[texts, 16] unit vectors around a few directions."""
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(texts // 6, 16))
    vectors = centres[draw.integers(0, len(centres), texts)] + draw.normal(size=(texts, 16)) * 0.25
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def first_of(labels: np.ndarray) -> list[int]:
    first: dict[int, int] = {}
    return [first.setdefault(label, i) for i, label in enumerate(labels.tolist())]


@pytest.mark.parametrize("similarity", [0.7, 0.9, 0.97])
@pytest.mark.parametrize(("texts", "block"), [(150, 16), (150, 2048), (64, 64), (65, 64)])
def test_groups_are_those_of_single_linkage(
    monkeypatch: pytest.MonkeyPatch, texts: int, block: int, similarity: float
) -> None:
    monkeypatch.setattr(semantic, "_BLOCK", block)
    vectors = clouds(texts, texts)
    expected = fcluster(linkage(vectors, "single", metric="cosine"), 1 - similarity, "distance")
    found = semantic_groups(range(texts), vectors, similarity=similarity)
    assert found == first_of(expected)
    assert 1 < len(set(found)) < texts


def test_groups_that_were_there_stay_and_are_joined() -> None:
    east, north, west = [1, 0], [0, 1], [-1, 0]
    vectors = np.array([east, north, west, north, east, west], dtype=np.float32)
    # 0 and 2 are near-duplicates though they mean something else, so 4 and 5 come to them.
    assert semantic_groups([0, 1, 0, 3, 4, 5], vectors, similarity=0.99) == [0, 1, 0, 1, 0, 0]


def test_the_same_vector_twice_is_a_pair_at_the_highest_similarity() -> None:
    vectors = clouds(3, 40)
    both = np.concatenate([vectors, vectors])
    assert semantic_groups(range(80), both, similarity=1.0) == [*range(40), *range(40)]


def test_nothing_to_group() -> None:
    assert semantic_groups([], np.zeros((0, 384), np.float32), similarity=0.9) == []
