"""ShareGPT's conversations, which many older trainers read: `from` is system, human or gpt."""

from __future__ import annotations

from typing import Any

from stillhouse.export.examples import Example

_FROM = {"system": "system", "user": "human", "assistant": "gpt"}


def line(example: Example) -> dict[str, Any]:
    """The example as a line; a plain prompt is what the human says."""
    said = [(_FROM[message["role"]], message["content"]) for message in example.messages]
    return {"conversations": [{"from": who, "value": text} for who, text in [*said, ("gpt", example.answer)]]}
