"""Completions that the teacher was unsure of."""

from __future__ import annotations

from collections.abc import Sequence

from stillhouse.curation.rows import Drop, Row
from stillhouse.errors import UserError
from stillhouse.recipe import Recipe


def uncertainty(recipe: Recipe, rows: Sequence[Row]) -> list[Drop | None]:
    """Drop completions that the teacher gave a smaller probability than `min_confidence`.

    Raises:
        UserError: the capture does not tell how probable a completion was.
    """
    section = recipe.curation.filters.uncertainty
    assert section is not None
    drops: list[Drop | None] = []
    for row in rows:
        confidence = row.confidence(per_token=section.per_token)
        if confidence is None:
            raise UserError(
                f"curation.filters.uncertainty: the capture has no logprobs of the completion of the record {row.id!r}:"
                " capture them (`capture.mode: topk`), or leave the filter out"
            )
        drops.append(Drop("uncertainty", f"{confidence:.3g}") if confidence < section.min_confidence else None)
    return drops
