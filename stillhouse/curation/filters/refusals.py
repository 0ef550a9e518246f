"""Completions that refuse to answer."""

from __future__ import annotations

from collections.abc import Sequence

from stillhouse.curation.rows import Drop, Row
from stillhouse.recipe import Recipe
from stillhouse.refusals import refusal


def refusals(_recipe: Recipe, rows: Sequence[Row]) -> list[Drop | None]:
    """Drop completions that begin with a refusal; of a JSON object, one of whose values does."""
    drops: list[Drop | None] = []
    for row in rows:
        found = next((phrase for text in row.values() if (phrase := refusal(text))), None)
        drops.append(Drop("refusals", found) if found else None)
    return drops
