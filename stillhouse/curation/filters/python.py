"""The user's own filter: a Python function."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stillhouse.curation import user_function
from stillhouse.curation.rows import Drop, Row
from stillhouse.errors import UserError
from stillhouse.recipe import Recipe

_LONGEST, _MOST = 60, 50
"""Characters of a reason, and how many different ones the funnel can hold."""


def python(recipe: Recipe, rows: Sequence[Row]) -> list[Drop | None]:
    """Drop rows for which the function returns False or a reason; each reason counts by itself.

    Raises:
        UserError: the function cannot be loaded, raises an exception, or returns anything else.
    """
    spec = recipe.curation.filters.python
    assert spec is not None
    keep = user_function.load(spec)
    drops: list[Drop | None] = []
    reasons: set[str] = set()
    for row in rows:
        where = f"curation.filters.python: {spec}, called with the record {row.id!r},"
        record = {
            "id": row.id,
            "fields": dict(row.fields),
            "completion": row.completion,
            "answer": row.answer,
            "gold": row.gold,
            "confidence": row.confidence(),
        }
        try:
            told = keep(record)
        except (Exception, SystemExit) as error:
            raise UserError(f"{where} raised {type(error).__name__}: {' '.join(str(error).split())}") from error
        if isinstance(told, str) and told.strip():
            reason = " ".join(told.split())
            reasons.add(reason)
            if len(reason) > _LONGEST or len(reasons) > _MOST:
                raise UserError(
                    f"{where} gave the reason {reason[:_LONGEST]!r}: reasons are counted, so give no more than {_MOST}"
                    f" different ones of at most {_LONGEST} characters"
                )
            drops.append(Drop(f"python: {reason}"))
        elif isinstance(told, bool | np.bool_):
            drops.append(None if told else Drop("python"))
        else:
            raise UserError(f"{where} returned {told!r}: return True, False, or a reason to drop it")
    return drops
