"""Which captured records may teach."""

from __future__ import annotations

from typing import Any

import pytest

from stillhouse.curation.filters import reason_to_drop
from stillhouse.recipe import Task

CHOICES = Task(kind="choices", prompt="{text}", choices=(" positive", " negative"))
TEXT = Task(kind="text", prompt="{text}")


@pytest.mark.parametrize(
    ("task", "changes", "reason"),
    [
        (CHOICES, {}, None),
        (CHOICES, {"error": "timed out", "completion": None, "completion_token_ids": None}, "failed"),
        (CHOICES, {"completion": "", "completion_token_ids": []}, "empty"),
        # A truncated completion must not teach where a sequence ends, whatever it says.
        (CHOICES, {"finish_reason": "length"}, "truncated"),
        (CHOICES, {"completion": " neutral"}, "contract"),
        (TEXT, {"completion": " anything"}, None),
        (TEXT, {"completion": "\n"}, "contract"),
    ],
)
def test_reason_to_drop(task: Task, changes: dict[str, Any], reason: str | None) -> None:
    row = {"completion": " positive", "completion_token_ids": [5, 0], "finish_reason": "stop", "error": None}
    assert reason_to_drop(task, {**row, **changes}) == reason
