"""Completions that are too short or too long."""

from __future__ import annotations

from collections.abc import Sequence

from stillhouse.curation.rows import Drop, Row
from stillhouse.recipe import Recipe


def length(recipe: Recipe, rows: Sequence[Row]) -> list[Drop | None]:
    """Drop completions with fewer words or characters than `min`, or more than `max`; space around them is not
    counted."""
    section = recipe.curation.filters.length
    assert section is not None
    drops: list[Drop | None] = []
    for row in rows:
        completion = (row.completion or "").strip()
        found = len(completion.split() if section.unit == "words" else completion)
        wrong = found < (section.min or 0) or (section.max is not None and found > section.max)
        drops.append(Drop("length", f"{found} {section.unit}") if wrong else None)
    return drops
