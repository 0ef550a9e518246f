"""`evaluation.judge`: a model that is neither teacher nor student, and says whose answer is better."""

from __future__ import annotations

import string
from collections.abc import Iterator

from pydantic import Field

from stillhouse.recipe.section import Section

PROMPT = """Two assistants answered the same request. Say which answer is better: more correct, more complete and more \
to the point. The order of the answers means nothing, and neither does their length.

The request:
{question}

Answer A:
{first}

Answer B:
{second}

Reply with one word: A, B, or tie."""

_FIELDS = {"question", "first", "second"}


class Judge(Section):
    """Who compares the student's answers with the teacher's, pair by pair and in both orders."""

    url: str = Field(
        pattern=r"^https?://[^\s@?#]+$", description="Base address of an OpenAI-compatible endpoint, not the teacher's."
    )
    model: str = Field(min_length=1, description="The endpoint's name of the model, which is not the teacher.")
    api_key_env: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Name of the environment variable that holds the key; null for an endpoint without keys.",
    )
    prompt: str | None = Field(
        default=None,
        min_length=1,
        description="What the judge is asked, with `{question}`, `{first}` and `{second}`. The last line of its reply"
        " has to be A, B or tie. Default: which answer is more correct, more complete and more to the point.",
    )
    samples: int = Field(
        default=100, ge=1, description="Test records that are judged, each by two requests; drawn with the seed."
    )
    max_concurrency: int = Field(default=8, ge=1, le=4096, description="Most requests at once.")
    timeout_s: float = Field(default=120.0, gt=0, description="Longest wait for one reply, in seconds.")
    max_attempts: int = Field(default=6, ge=1, le=20, description="How often a request is sent before it has failed.")

    @property
    def poll_s(self) -> float:
        """Every endpoint has it; a judge is asked without batches, so it is never waited for."""
        return 0.0

    def filled(self, *, question: str, first: str, second: str) -> str:
        """The prompt for one pair of answers."""
        return (self.prompt or PROMPT).format_map({"question": question, "first": first, "second": second})

    def problems(self) -> Iterator[str]:
        try:
            parts = [part for part in string.Formatter().parse(self.prompt or PROMPT) if part[1] is not None]
        except ValueError as error:
            yield f"`prompt` is malformed: {error}"
            return
        names = {name for _, name, _, _ in parts}
        plain = all(not spec and not conversion for _, _, spec, conversion in parts)
        if not plain or names - _FIELDS or not {"first", "second"} <= names:
            yield "`prompt` needs `{first}` and `{second}`, may have `{question}`, and no other braces"
