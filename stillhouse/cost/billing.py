"""What endpoints billed for a run's capture: tokens, which the recipe's prices are put on when they are read.

`RUN/capture/spending` holds one file a part and teacher, with every attempt at it: what it can cost at worst, and what
was billed once that is known. An attempt that was killed counts with its worst case.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stillhouse.errors import UserError
from stillhouse.recipe import Prices
from stillhouse.run import Run

FOLDER = "capture/spending"


class BilledTokens(BaseModel):
    """Tokens of some requests."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: int = Field(default=0, ge=0)
    completion: int = Field(default=0, ge=0)

    def __add__(self, other: BilledTokens) -> BilledTokens:
        return BilledTokens(prompt=self.prompt + other.prompt, completion=self.completion + other.completion)


class Attempt(BaseModel):
    """One time that a part was asked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    batch: bool = Field(description="Whether the Batch API was asked, at its price.")
    worst: BilledTokens = Field(description="As many tokens as it can cost.")
    billed: BilledTokens | None = Field(
        default=None, description="As many as it did cost; None while that is not known."
    )
    requests: int = 0

    @property
    def tokens(self) -> BilledTokens:
        """What was billed, or the worst case while that is not known."""
        return self.billed if self.billed is not None else self.worst

    def cost(self, prices: Prices) -> float:
        """In the currency of `prices`; tokens without a price count as nothing."""
        tokens = self.tokens
        whole = tokens.prompt * (prices.teacher_input or 0.0) + tokens.completion * (prices.teacher_output or 0.0)
        return whole * (1 - prices.batch_discount if self.batch else 1) / 1e6


class Page(BaseModel):
    """All attempts at one part by one teacher."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    attempts: tuple[Attempt, ...] = ()


def pages(run: Run) -> Iterator[tuple[str, Page]]:
    """The account of a run by the keys of its files. Raises `UserError` for a damaged one."""
    for key in run.storage.list(FOLDER):
        try:
            yield key, Page.model_validate_json(run.storage.read(key))
        except ValidationError as error:
            raise UserError(f"{run.uri}/{key} is damaged, and without it nobody knows what was spent") from error
