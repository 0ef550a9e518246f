"""The last look at the splits: does a record that is held out have a duplicate that is trained on?

It shares the definition of a duplicate with the code that made the groups, and nothing else: near-duplicates are found
by an exact join over rare n-grams instead of sketches, semantic ones by sentence-transformers' own search.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from stillhouse.curation.duplicates import normalised, shingles
from stillhouse.errors import UserError


class Placed(NamedTuple):
    """A record's text, and the split that it stands in."""

    id: str
    split: str
    text: str


class Leak(NamedTuple):
    """Two records that belong together, in two splits: places in the list of what was looked at, and why."""

    first: int
    second: int
    what: str


def require_no_leak(
    placed: Sequence[Placed],
    *,
    similarity: float,
    vectors: np.ndarray | None = None,
    semantic_similarity: float | None = None,
) -> None:
    """See that no two records of different splits are exact, near or semantic duplicates.

    Args:
        placed: every record once for each split that holds it.
        similarity: Jaccard similarity of word 3-grams from which two texts are near-duplicates.
        vectors: [records, dimensions] float32 unit vectors, if semantic duplicates are looked for.
        semantic_similarity: cosine from which two texts are semantic duplicates.

    Raises:
        UserError: two are; it names them.
    """
    leak = next(_exact(placed), None) or next(_near(placed, similarity), None)
    if leak is None and vectors is not None and semantic_similarity is not None:
        leak = next(_semantic(placed, vectors, semantic_similarity), None)
    if leak is not None:
        one, other = placed[leak.first], placed[leak.second]
        raise UserError(
            f"the splits leak: the record {one.id!r} in {one.split} and the record {other.id!r} in {other.split}"
            f" {leak.what}; nothing was written. Another `seed` groups the records anew"
        )


def _exact(placed: Sequence[Placed]) -> Iterator[Leak]:
    by_id: dict[str, int] = {}
    by_text: dict[str, int] = {}
    for i, record in enumerate(placed):
        for seen, key in ((by_id, record.id), (by_text, normalised(record.text))):
            first = seen.setdefault(key, i)
            if placed[first].split != record.split:
                yield Leak(first, i, "have the same text" if seen is by_text else "are the same")


def _near(placed: Sequence[Placed], similarity: float) -> Iterator[Leak]:
    """Prefix filtering (Chaudhuri et al. 2006; Bayardo et al. 2007): two sets of that similarity share one of the few
    rarest n-grams of each, so that only records with such a one in common are compared."""
    grams = [shingles(record.text) for record in placed]
    frequency = Counter(gram for each in grams for gram in each)
    rarest = [sorted(each, key=lambda gram: (frequency[gram], gram)) for each in grams]
    prefixes = [each[: len(each) - math.ceil(similarity * len(each) - 1e-9) + 1] for each in rarest]
    held_out: dict[str, list[int]] = defaultdict(list)
    for i, record in enumerate(placed):
        if record.split != "train":
            for gram in prefixes[i]:
                held_out[gram].append(i)
    for i, record in enumerate(placed):
        for j in {j for gram in prefixes[i] for j in held_out.get(gram, ()) if placed[j].split != record.split}:
            shared = len(grams[i] & grams[j])
            union = len(grams[i]) + len(grams[j]) - shared
            if shared >= similarity * union:
                yield Leak(i, j, f"are near-duplicates, which share {shared / union:.0%} of their word 3-grams")


def _semantic(placed: Sequence[Placed], vectors: np.ndarray, similarity: float) -> Iterator[Leak]:
    import torch
    from sentence_transformers.util import semantic_search

    splits = np.array([record.split for record in placed])
    for split in sorted({*splits} - {"train"}):
        inside, outside = np.flatnonzero(splits == split), np.flatnonzero(splits != split)
        if not len(outside):
            continue
        found = semantic_search(
            torch.from_numpy(vectors[inside]), torch.from_numpy(vectors[outside]), corpus_chunk_size=50_000, top_k=1
        )
        for i, (nearest,) in zip(inside, found, strict=True):
            if nearest["score"] >= similarity:
                cosine = f"{nearest['score']:.2f}"
                yield Leak(int(i), int(outside[nearest["corpus_id"]]), f"mean the same, with a cosine of {cosine}")
