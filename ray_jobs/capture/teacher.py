"""What every teacher does: it answers questions, part by part, and says what it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from stillhouse.signal.schema import Completion
from stillhouse.task import Prompt


@dataclass(frozen=True)
class Question:
    """One prompt for the teacher.

    Attributes:
        id: the record's.
        prompt: what is asked.
        seed: of the draws of its completions; it depends on nothing but the recipe's seed and the record's id.
        completion: a completion to score instead of one of the teacher's own: a text that is whole, or the token ids
            that another teacher wrote.
    """

    id: str
    prompt: Prompt
    seed: int
    completion: str | list[int] | None = None


@dataclass(frozen=True)
class Failure:
    """A question that failed for good; `error` is one sentence, without any secret."""

    error: str


Answer = list[Completion] | Failure
"""`capture.n` completions, or why there are none."""


@dataclass(frozen=True)
class Identity:
    """What a teacher says of itself in the parts that it writes.

    Attributes:
        model: the recipe's name of it.
        tokenizer_hash: of the tokenizer that the stored token ids belong to.
        template_hash: of its chat template.
        engine: name and version of what ran it, `vllm 0.32.0` say; for an endpoint its address, without credentials.
        dtype: what it computed in; `unknown` for an endpoint that does not say.
    """

    model: str
    tokenizer_hash: str
    template_hash: str
    engine: str
    dtype: str


class Teacher(Protocol):
    """A teacher that a capture worker holds."""

    identity: Identity

    def answer(self, part: int, questions: Sequence[Question]) -> list[Answer]:
        """One answer a question, in order.

        Args:
            part: the number of the part that the questions are; asked again after a crash, it has the same questions.

        Raises:
            UserError: nothing can be answered at all (no such model, no access, the budget is spent).
        """
