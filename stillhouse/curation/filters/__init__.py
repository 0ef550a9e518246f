"""Which captured records may teach: what never can, and the recipe's own filters, in the order of the funnel.

A filter is a function of the recipe and a batch of rows that says of each row why it is dropped, or None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stillhouse.curation.filters.always import REASONS, always
from stillhouse.curation.filters.consistency import consistency
from stillhouse.curation.filters.language import language
from stillhouse.curation.filters.length import length
from stillhouse.curation.filters.patterns import patterns
from stillhouse.curation.filters.pii import pii
from stillhouse.curation.filters.profanity import profanity
from stillhouse.curation.filters.python import python
from stillhouse.curation.filters.refusals import refusals
from stillhouse.curation.filters.uncertainty import uncertainty
from stillhouse.curation.rows import Drop, Row
from stillhouse.recipe import Recipe

__all__ = ["FILTERS", "REASONS", "Filter", "filter_rows"]

Filter = Callable[[Recipe, Sequence[Row]], list[Drop | None]]

FILTERS: dict[str, Filter] = {
    "length": length,
    "refusals": refusals,
    "uncertainty": uncertainty,
    "consistency": consistency,
    "language": language,
    "profanity": profanity,
    "pii": pii,
    "patterns": patterns,
    "python": python,
}
"""By their keys in `curation.filters`, in the order in which they look."""


def filter_rows(recipe: Recipe, rows: Sequence[Row]) -> list[Drop | None]:
    """Why each row is dropped, None for those that stay: the first reason that is found.

    Raises:
        UserError: a filter cannot judge the rows.
    """
    drops = always(rows)
    for name, find in FILTERS.items():
        if not getattr(recipe.curation.filters, name):
            continue
        left = [i for i, drop in enumerate(drops) if drop is None]
        for i, drop in zip(left, find(recipe, [rows[i] for i in left]), strict=True):
            drops[i] = drop
    return drops
