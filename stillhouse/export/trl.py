"""TRL's prompt-completion datasets: conversational for chats, standard for plain prompts.

Source: TRL's documentation, "Dataset formats and types". Its trainers put the end of the sequence after a completion.
"""

from __future__ import annotations

from typing import Any

from stillhouse.export.examples import Example


def line(example: Example) -> dict[str, Any]:
    """The example as a line."""
    if example.prompt.text is not None:
        return {"prompt": example.prompt.text, "completion": example.completion}
    return {"prompt": example.messages, "completion": [{"role": "assistant", "content": example.answer}]}
