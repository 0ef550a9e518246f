"""Duplicates: which records belong together, and so to one side of a split, and which are one too many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from stillhouse.curation.duplicates import near_duplicate_groups, normalised
from stillhouse.curation.rows import Drop
from stillhouse.curation.selection import Selection
from stillhouse.curation.semantic import semantic_groups
from stillhouse.recipe import Curation


@dataclass(frozen=True)
class Groups:
    """The group of each record, by its id; a group is named by the place of its first record.

    Attributes:
        near: groups of near-duplicates.
        all: groups of near and semantic duplicates.
        vectors: each record's embedding, [384] float32; None where semantic duplicates are not looked for.
    """

    near: Mapping[str, int]
    all: Mapping[str, int]
    vectors: Mapping[str, np.ndarray] | None = None


def group_records(texts: Mapping[str, str], curation: Curation, *, seed: int) -> Groups:
    """Group records, given by id and text, as the recipe's `curation` says."""
    told = list(texts.values())
    near = near_duplicate_groups(told, similarity=curation.near_duplicate_similarity, seed=seed)
    if curation.semantic_similarity is None:
        by_id = dict(zip(texts, near, strict=True))
        return Groups(by_id, by_id)
    from stillhouse.embeddings import embed

    vectors = embed(told)
    both = semantic_groups(near, vectors, similarity=curation.semantic_similarity)
    return Groups(
        dict(zip(texts, near, strict=True)),
        dict(zip(texts, both, strict=True)),
        dict(zip(texts, vectors, strict=True)),
    )


def drop_exact_duplicates(selection: Selection) -> None:
    """Drop what has the text of an earlier record that stays; completions of one record are no duplicates."""
    first: dict[str, str] = {}
    for i in selection.kept():
        row = selection.rows[i]
        if (earlier := first.setdefault(normalised(row.text), row.id)) != row.id:
            selection.drops[i] = Drop("duplicate", earlier)


def drop_group_duplicates(selection: Selection, groups: Groups) -> None:
    """Drop all records of a group but its first."""
    records = list(groups.all)
    for i in selection.kept():
        record = selection.rows[i].id
        for reason, by_id in (("semantic_duplicate", groups.all), ("near_duplicate", groups.near)):
            if (first := records[by_id[record]]) != record:
                selection.drops[i] = Drop(reason, first)


def duplicates(selection: Selection, groups: Groups) -> dict[str, int]:
    """How many records have a duplicate that comes before them: a near one, and a semantic one where those are looked
    for."""
    records = selection.texts()
    near = len({groups.near[record] for record in records})
    counts = {"near_duplicates": len(records) - near}
    if groups.vectors is not None:
        counts["semantic_duplicates"] = near - len({groups.all[record] for record in records})
    return counts
