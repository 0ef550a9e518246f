"""`capture`: how the teacher's completions and distributions are taken."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from stillhouse.recipe.section import Section


class Engines(Section):
    """How many engines work side by side."""

    min: int = Field(default=1, ge=1, description="As many are started at once.")
    max: int = Field(default=1, ge=1, description="As many may work while there is work for them.")

    def problems(self) -> Iterator[str]:
        if self.min > self.max:
            yield f"min ({self.min}) is more than max ({self.max})"


class Capture(Section):
    """How the teacher's completions and distributions are taken."""

    mode: Literal["topk", "sampled", "text"] = Field(
        default="topk",
        description="`topk`: the most probable tokens with their logprobs; `sampled`: tokens drawn from the whole"
        " distribution, unbiased; `text`: completions alone.",
    )
    top_k: int = Field(default=20, ge=1, le=256, description="For `topk`: logprobs kept at each position.")
    mass: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="For `topk`: keep no more tokens than hold this much of the probability, 0.999 say.",
    )
    draws: int = Field(default=50, ge=1, le=255, description="For `sampled`: tokens drawn at each position.")
    completions: Literal["teacher", "gold", "column"] = Field(
        default="teacher",
        description="Whose completions: the teacher's own; or those that the teacher only scores, the gold answers of"
        " `data.label` or the texts of `data.completion`.",
    )
    n: int = Field(default=1, ge=1, le=64, description="Completions of each prompt.")
    part_size: int = Field(default=512, ge=1, description="Records in one Parquet part: the unit of resumption.")
    engines: Engines = Field(default_factory=Engines, description="Engines (or askers of an endpoint) side by side.")
    max_failed: float = Field(
        default=0.01, ge=0, le=1, description="Largest share of records that may fail for good without failing the job."
    )
    budget: float | None = Field(
        default=None,
        gt=0,
        description="Most that may be spent at an endpoint, in the currency of `prices`; a higher one goes on.",
    )
