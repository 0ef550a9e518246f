"""Captured rows for the tests of curation."""

from __future__ import annotations

from typing import Any

import numpy as np

from stillhouse.curation.rows import Row


def row(identity: str = "r0", completion: str | None = "fine", **changes: Any) -> Row:
    """A row that nothing is wrong with, but for the changes."""
    text = changes.pop("text", "a question")
    logprobs = changes.pop("logprobs", [-0.1, -0.1])
    values: dict[str, Any] = {
        "id": identity,
        "sample": 0,
        "fields": {"text": text},
        "text": text,
        "completion": completion,
        "tokens": 2,
        "finish_reason": "stop",
        "error": None,
        "gold": None,
        "answer": completion,
        "agreement": 1.0,
        "token_logprobs": None if logprobs is None else np.array(logprobs, dtype=np.float32),
        "is_json": False,
        **changes,
    }
    return Row(**values)
