"""OpenAI's chat fine-tuning JSONL, and its published rules.

Sources: the supervised fine-tuning guide (developers.openai.com/api/docs/guides/supervised-fine-tuning), for the
format, at least 10 examples and the length of one; the reference of `POST /v1/files`, for a file's size; and
`Chat_finetuning_data_prep` in OpenAI's cookbook, for the keys and roles of a message.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stillhouse.export.examples import Example
from stillhouse.recipe import OpenAIStudent

FEWEST_EXAMPLES = 10
MOST_BYTES = 512 * 10**6
"""Of one file: the reference says 512 MB, taken for the smaller of its two meanings."""

MOST_TOKENS: int = OpenAIStudent.model_fields["max_example_tokens"].default
"""Of one example, unless the recipe says otherwise."""

ROLES = ("system", "user", "assistant")
_KEYS = {"role", "content", "name", "weight"}
_AROUND = 16
"""More tokens than a chat template puts around a message."""


def line(example: Example) -> dict[str, Any]:
    """The example as a line: the task's chat messages, or its plain prompt as one, and the answer."""
    return {"messages": [*example.messages, {"role": "assistant", "content": example.answer}]}


def line_problems(content: Any, *, tokens: int | None, most_tokens: int) -> Iterator[str]:
    """What breaks the rules in one line of the file.

    Args:
        tokens: of the example, as some tokenizer counts them; None: not known.
        most_tokens: of one example.
    """
    if not isinstance(content, Mapping) or not isinstance(messages := content.get("messages"), list) or not messages:
        yield "it has no list of `messages`"
        return
    if unknown := sorted(set(content) - {"messages"}):
        yield f"the key `{unknown[0]}` is unknown beside `messages`"
    for number, message in enumerate(messages, 1):
        yield from (f"message {number} {problem}" for problem in _message_problems(message))
    roles = [message.get("role") for message in messages if isinstance(message, Mapping)]
    if roles[-1:] != ["assistant"]:
        yield "its last message is not the assistant's, so that there is nothing to learn"
    if "user" not in roles:
        yield "it has no message of the role user"
    if tokens is not None and tokens > most_tokens and _most(messages) > most_tokens:
        yield f"it has about {tokens:,} tokens, and an example may have {most_tokens:,}"


def file_problems(*, split: str, examples: int, size: int) -> Iterator[str]:
    """What breaks the rules in a file as a whole; `size` is in bytes."""
    if split == "train" and examples < FEWEST_EXAMPLES:
        yield f"it has {examples} examples, and at least {FEWEST_EXAMPLES} are needed"
    if size > MOST_BYTES:
        yield f"it has {size / 1e6:,.0f} MB, and a file may have {MOST_BYTES / 1e6:,.0f} MB"


def _message_problems(message: Any) -> Iterator[str]:
    if not isinstance(message, Mapping):
        yield "is not an object"
        return
    if unknown := sorted(set(message) - _KEYS):
        yield f"has the unknown key `{unknown[0]}`"
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        yield f"is of the role {role!r}, and there are {', '.join(ROLES)}"
    if not isinstance(content, str) or not content.strip():
        yield "has no text in `content`"
    if "weight" in message:
        if role != "assistant":
            yield "has a `weight`, which only the assistant's messages may have"
        elif message["weight"] not in (0, 1) or isinstance(message["weight"], bool):
            yield f"has the `weight` {message['weight']!r}, which may be 0 or 1"


def _most(messages: list[Any]) -> int:
    """More tokens than any tokenizer makes of the messages: no token is shorter than a byte."""
    return sum(len(str(message.get("content", "")).encode()) + _AROUND for message in messages)
