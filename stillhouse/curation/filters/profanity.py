"""Texts with profane words."""

from __future__ import annotations

from collections.abc import Sequence

from stillhouse.curation.rows import Drop, Row
from stillhouse.profanity import ProfaneWords
from stillhouse.recipe import Recipe


def profanity(recipe: Recipe, rows: Sequence[Row]) -> list[Drop | None]:
    """Drop rows with a word of better-profanity's list or of the recipe's `words`, but for those that it allows."""
    section = recipe.curation.filters.profanity
    assert section is not None
    profane = ProfaneWords(words=section.words, allow=section.allow)
    drops: list[Drop | None] = []
    for row in rows:
        found = [word for text in row.texts(section.look_in) for word in profane.found(text)]
        drops.append(Drop("profanity", ", ".join(dict.fromkeys(found))) if found else None)
    return drops
