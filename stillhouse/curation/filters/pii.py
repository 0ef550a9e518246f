"""Texts with personal data."""

from __future__ import annotations

from collections.abc import Sequence

from stillhouse.curation.rows import Drop, Row
from stillhouse.pii import PiiDetector
from stillhouse.recipe import Recipe


def pii(recipe: Recipe, rows: Sequence[Row]) -> list[Drop | None]:
    """Drop rows with one of `entities`; what was found is told by its kind alone."""
    section = recipe.curation.filters.pii
    assert section is not None
    detector = PiiDetector(section.entities, min_score=section.min_score)
    drops: list[Drop | None] = []
    for row in rows:
        kinds = sorted({found.entity for text in row.texts(section.look_in) for found in detector.find(text)})
        drops.append(Drop("pii", ", ".join(kinds)) if kinds else None)
    return drops
