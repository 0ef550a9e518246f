"""Texts in languages that the recipe does not allow."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from stillhouse.curation.rows import Drop, Row
from stillhouse.recipe import Recipe

_NO_LANGUAGE = "zxx"
"""py3langid's code for text in no language: code, numbers."""


def language(recipe: Recipe, rows: Sequence[Row]) -> list[Drop | None]:
    """Drop rows with a text that is in another language with a probability of at least `min_confidence`.

    py3langid normalises its scores over all its languages, flatter for shorter texts: a few words reach no such
    probability, and stay.
    """
    section = recipe.curation.filters.language
    assert section is not None
    allowed = {*section.allowed, _NO_LANGUAGE}
    identifier = _identifier()
    drops: list[Drop | None] = []
    for row in rows:
        found = [identifier.classify(text) for text in row.texts(section.look_in)]
        others = [(code, p) for code, p in found if code not in allowed and p >= section.min_confidence]
        drops.append(Drop("language", f"{others[0][0]} {others[0][1]:.2f}") if others else None)
    return drops


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
