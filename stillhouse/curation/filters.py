"""Which captured records may teach."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stillhouse.recipe import Task
from stillhouse.task import answer


def reason_to_drop(task: Task, row: Mapping[str, Any]) -> str | None:
    """Why a captured record is left out of the dataset; None if it stays.

    `failed`: the teacher gave no answer; `empty`: no completion; `truncated`: cut off by `max_tokens`; `contract`: not
    an answer that the task allows.
    """
    if row["error"] is not None:
        return "failed"
    # A teacher whose tokenizer is unknown tells no token ids.
    if not row["completion_token_ids"] and not row["completion"]:
        return "empty"
    if row["finish_reason"] == "length":
        return "truncated"
    if answer(task, row["completion"]) is None:
        return "contract"
    return None
