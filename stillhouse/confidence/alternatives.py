"""How many of the likeliest tokens the student is asked for beside each one that it writes."""

from __future__ import annotations

from typing import Any

from stillhouse.recipe import Task
from stillhouse.task import decoding

MOST_ALTERNATIVES = 20
"""Logprobs that OpenAI's API and vLLM's default give at most at each position."""


def alternatives_asked(task: Task, tokenizer: Any) -> int:
    """How many of the likeliest tokens the student is asked for at each position, in the evaluation and when it serves.

    As many as there are choices, up to `MOST_ALTERNATIVES`: among choices the probabilities are normalised over what
    can be answered. 0 for other tasks, whose tokens are any; and where two of the choices' tokens are spelled alike,
    since vLLM's plain completions tell alternatives by their spelling.
    """
    if task.kind != "choices":
        return 0
    allowed = decoding(task, tokenizer)["allowed_token_ids"]
    if len({tokenizer.decode([token]) for token in allowed}) < len(allowed):
        return 0
    return min(len(task.choices), MOST_ALTERNATIVES)
