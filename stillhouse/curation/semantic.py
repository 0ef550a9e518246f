"""Semantic duplicates: prompts that mean nearly the same in other words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_ROUNDING = 1e-5
"""By which the float32 product of two vectors may be too small."""
_BLOCK = 2048
"""Vectors on each side of one product: 16 MiB of similarities at a time."""


def semantic_groups(groups: Sequence[int], vectors: np.ndarray, *, similarity: float) -> list[int]:
    """Join groups of texts of which two have a cosine similarity of at least `similarity`, transitively.

    Every pair is compared, a block of the matrix at a time: an index of nearest neighbours, or a search for the k
    most similar, would miss some, and a pair that is missed may stand on both sides of a split.

    Args:
        groups: [texts], the group that each text is in already.
        vectors: [texts, dimensions] float32, of length 1.
        similarity: in (0, 1].

    Returns:
        For each text the index of the first text of its group.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    labels = np.unique(np.asarray(groups, dtype=np.int64), return_inverse=True)[1]
    starts = range(0, len(vectors), _BLOCK)
    for row in starts:
        for column in (start for start in starts if start >= row):
            alike = vectors[row : row + _BLOCK] @ vectors[column : column + _BLOCK].T >= similarity - _ROUNDING
            i, j = np.nonzero(alike & (labels[row : row + _BLOCK, None] != labels[None, column : column + _BLOCK]))
            if not len(i):
                continue
            edges = coo_array((np.ones(len(i), bool), (labels[row + i], labels[column + j])), (labels.max() + 1,) * 2)
            labels = connected_components(edges, directed=False)[1][labels]
    _, first, place = np.unique(labels, return_index=True, return_inverse=True)
    return [int(label) for label in first[place]]
