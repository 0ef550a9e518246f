"""What can never teach, whatever the recipe says."""

from __future__ import annotations

from collections.abc import Sequence

from stillhouse.curation.rows import Drop, Row

REASONS = ("failed", "empty", "truncated", "contract")


def always(rows: Sequence[Row]) -> list[Drop | None]:
    """`failed`: the teacher gave no answer; `empty`: no completion; `truncated`: cut off by `max_tokens`; `contract`:
    not an answer that the task allows."""
    return [_of(row) for row in rows]


def _of(row: Row) -> Drop | None:
    if row.error is not None:
        return Drop("failed", row.error)
    # A teacher whose tokenizer is unknown tells no token ids.
    if not row.tokens and not row.completion:
        return Drop("empty")
    if row.finish_reason == "length":
        return Drop("truncated")
    if row.answer is None:
        return Drop("contract")
    return None
