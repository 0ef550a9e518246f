"""Axolotl's datasets: `type: chat_template` for chats, `type: input_output` for plain prompts.

Source: Axolotl's documentation, "Conversation" and "Template-Free". The latter puts nothing around the segments, so
that the begin and the end of the sequence are written out, as the run's tokenizer has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stillhouse.export.examples import Example
from stillhouse.models import load_tokenizer, token_source
from stillhouse.recipe import Recipe


@dataclass(frozen=True)
class Axolotl:
    """The format for one tokenizer.

    Attributes:
        begin: the text of the token that the tokenizer puts before a prompt; often none.
        end: the text of the end of a sequence.
    """

    begin: str = ""
    end: str = ""

    @classmethod
    def of(cls, recipe: Recipe) -> Axolotl:
        """The format for a recipe; chats need no tokenizer. Raises `UserError` for an unknown one."""
        if recipe.task.prompt is None:
            return cls()
        tokenizer = load_tokenizer(token_source(recipe))
        begins = tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id] != [None]
        return cls(begin=tokenizer.bos_token if begins else "", end=tokenizer.eos_token)

    def line(self, example: Example) -> dict[str, Any]:
        """The example as a line."""
        if example.prompt.text is None:
            return {"messages": [*example.messages, {"role": "assistant", "content": example.answer}]}
        return {
            "segments": [
                {"label": False, "text": self.begin + example.prompt.text},
                {"label": True, "text": example.completion + self.end},
            ]
        }
