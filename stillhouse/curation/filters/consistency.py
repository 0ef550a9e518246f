"""Records whose completions disagree: self-consistency (Wang et al. 2023, arXiv:2203.11171)."""

from __future__ import annotations

from collections.abc import Sequence

from stillhouse.curation.rows import Drop, Row
from stillhouse.recipe import Recipe


def consistency(recipe: Recipe, rows: Sequence[Row]) -> list[Drop | None]:
    """Drop all completions of a record whose most frequent answer has a smaller share than `min_agreement`."""
    section = recipe.curation.filters.consistency
    assert section is not None
    return [
        Drop("consistency", f"{row.agreement:.3g}") if row.agreement < section.min_agreement - 1e-6 else None
        for row in rows
    ]
