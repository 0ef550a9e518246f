"""Near-duplicate groups: prompts that say nearly the same must not stand on both sides of a split."""

from __future__ import annotations

import re
from collections.abc import Sequence

from datasketch import MinHash, MinHashLSH

_PERMUTATIONS = 128
_WORD = re.compile(r"\w+")


def normalised(text: str) -> str:
    """Lower-case words with single spaces: equal for exact duplicates."""
    return " ".join(_WORD.findall(text.lower()))


def shingles(text: str) -> set[str]:
    """Word 3-grams; the whole text where it has fewer words."""
    words = normalised(text).split()
    return {" ".join(words[i : i + 3]) for i in range(max(1, len(words) - 2))}


def near_duplicate_groups(texts: Sequence[str], *, similarity: float, seed: int) -> list[int]:
    """Group texts whose word 3-grams have a Jaccard similarity of at least `similarity`, transitively.

    Candidates come from MinHash LSH (Broder 1997; Leskovec et al., Mining of Massive Datasets, ch. 3), and are verified exactly.

    Returns:
        For each text the index of the first text of its group.
    """
    grams = [shingles(text) for text in texts]
    parent = list(range(len(texts)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    # A little below the threshold, so that the sketch's error costs a look and not a missed pair.
    index = MinHashLSH(threshold=max(0.05, similarity - 0.1), num_perm=_PERMUTATIONS)
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
