"""Texts that match a regular expression of the user's."""

from __future__ import annotations

from collections.abc import Sequence

from stillhouse.curation.rows import Drop, Row
from stillhouse.errors import UserError
from stillhouse.recipe import Recipe

_SECONDS = 1.0
"""Of processor time that one search may take: a pattern that backtracks without end would never return."""


def patterns(recipe: Recipe, rows: Sequence[Row]) -> list[Drop | None]:
    """Drop rows in which one of the recipe's patterns is found; each counts by its name.

    Raises:
        UserError: a search takes too long.
    """
    import regex  # type: ignore[import-untyped]

    given = [(name, one, regex.compile(one.regex)) for name, one in recipe.curation.filters.patterns.items()]

    def of(row: Row) -> Drop | None:
        for name, section, pattern in given:
            # As they are written: a pattern may be about JSON's own signs.
            texts = {"prompt": [row.text], "completion": [row.completion or ""]}
            for text in texts.get(section.look_in, [row.text, row.completion or ""]):
                try:
                    found = pattern.search(text, timeout=_SECONDS)
                except TimeoutError as error:
                    raise UserError(
                        f"curation.filters.patterns.{name}: searching the record {row.id!r} takes more than"
                        f" {_SECONDS:g} s: write the pattern without repetitions inside repetitions"
                    ) from error
                if found:
                    return Drop(f"patterns: {name}", found.group()[:80])
        return None

    return [of(row) for row in rows]
