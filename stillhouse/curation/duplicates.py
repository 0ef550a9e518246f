"""Near-duplicate groups: prompts that say nearly the same must not stand on both sides of a split."""

from __future__ import annotations

import re
from collections.abc import Sequence

_PERMUTATIONS = 128
_MISSED = 1e-6
"""Chance that a pair just as similar as asked for is not looked at."""
_WORD = re.compile(r"\w+")


def normalised(text: str) -> str:
    """The text but for case and spacing: equal for exact duplicates. Signs stay, since `:)` is not `:(`."""
    return " ".join(text.lower().split())


def shingles(text: str) -> set[str]:
    """Word 3-grams; the whole text where it has fewer words, or none."""
    words = _WORD.findall(text.lower()) or normalised(text).split()
    return {" ".join(words[i : i + 3]) for i in range(max(1, len(words) - 2))}


def near_duplicate_groups(texts: Sequence[str], *, similarity: float, seed: int) -> list[int]:
    """Group texts whose word 3-grams have a Jaccard similarity of at least `similarity`, transitively.

    Candidates come from MinHash LSH (Broder 1997; Leskovec et al., Mining of Massive Datasets, ch. 3), and are
    verified exactly, so that no pair is wrong, and hardly one is missed.

    Returns:
        For each text the index of the first text of its group.
    """
    from datasketch import MinHash, MinHashLSH

    grams = [shingles(text) for text in texts]
    parent = list(range(len(texts)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    index = MinHashLSH(num_perm=_PERMUTATIONS, params=_bands(similarity))
    exact: dict[str, int] = {}
    for i, text in enumerate(texts):
        first = exact.setdefault(normalised(text), i)
        if first != i:
            parent[root(i)] = root(first)
            continue
        sketch = MinHash(num_perm=_PERMUTATIONS, seed=seed + 1)
        sketch.update_batch([gram.encode() for gram in grams[i]])
        for j in index.query(sketch):
            if len(grams[i] & grams[j]) >= similarity * len(grams[i] | grams[j]):
                low, high = sorted((root(i), root(j)))
                parent[high] = low
        index.insert(i, sketch)
    return [root(i) for i in range(len(texts))]


def _bands(similarity: float) -> tuple[int, int]:
    """(bands, rows of each): as many rows, so as few looks in vain, as `_MISSED` allows.

    A pair is looked at if all rows of any band agree, which each row does with the pair's similarity as its chance.
    """
    shapes = [(_PERMUTATIONS // rows, rows) for rows in range(_PERMUTATIONS // 2, 0, -1)]
    return next((b, r) for b, r in shapes if r == 1 or (1 - similarity**r) ** b <= _MISSED)
