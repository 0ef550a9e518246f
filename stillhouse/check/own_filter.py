"""The user's own filter (`curation.filters.python`), tried before money is spent on what it cannot judge."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from stillhouse.curation import user_function
from stillhouse.curation.filters import filter_rows
from stillhouse.curation.rows import rows_of
from stillhouse.data import Record
from stillhouse.recipe import Recipe
from stillhouse.signal.schema import Completion, to_row, to_table
from stillhouse.task import completion_token_ids


def require_function(recipe: Recipe) -> None:
    """Refuse a function that cannot be loaded, or cannot be called with a record alone. Raises `UserError`."""
    if recipe.curation.filters.python is not None:
        user_function.load(recipe.curation.filters.python)


def require_verdicts(recipe: Recipe, answered: Iterable[tuple[Record, Completion]]) -> None:
    """Refuse a function that cannot judge these answers: it is called as curation calls it, after the other filters.

    Raises:
        UserError: it raised an exception, or returned no verdict; with the record's id.
    """
    if recipe.curation.filters.python is None:
        return
    rows = [to_row(record, replace(completion, signal=None)) for record, completion in answered]
    filter_rows(recipe, rows_of(recipe.task, to_table(rows)))


def given(records: Sequence[Record], tokenizer: Any, *, told: bool) -> Iterator[tuple[Record, Completion]]:
    """The records that come with a completion to score, as a teacher who is sure of each token would score them.

    Args:
        told: whether the teacher will tell logprobs; without them a record has no confidence.
    """
    for record in records:
        if record.completion is not None:
            ids = completion_token_ids(record.completion, tokenizer, ended=True)
            yield record, Completion([], record.completion, ids, "stop", [0.0] * len(ids) if told else None, None)
