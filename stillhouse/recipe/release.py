"""`evaluation` and `serving`: what the student must promise, and where it answers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field

from stillhouse.confidence.features import FEATURES, FeatureName
from stillhouse.recipe.judge import Judge
from stillhouse.recipe.section import Section

ScoreName = Literal["auto", "sequence_probability", "logistic", "isotonic"] | FeatureName


class Evaluation(Section):
    """How much is asked of the student before it may answer alone."""

    against: Literal["teacher", "gold"] = Field(
        default="teacher",
        description="What an answer of the student is held against when the threshold is chosen.",
    )
    alpha: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="Largest share of errors among the answers the student gives alone.",
    )
    delta: float = Field(default=0.05, gt=0, lt=1, description="Largest chance that the promise about alpha is broken.")
    score: ScoreName = Field(
        default="auto",
        description="What the threshold is on: the probability of the whole answer, another feature of its logprobs, or"
        " a score that is fitted. `auto` picks one where there are three choices or more, JSON or text, and 400"
        " calibration records or more; what picks or fits takes a third of them.",
    )
    windows: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(),
        max_length=8,
        description="For `text` that is streamed: after how many tokens the student may be judged; each of them gets a"
        " score, a threshold and a promise of its own.",
    )
    margin: float = Field(
        default=0.02,
        gt=0,
        lt=1,
        description="How much less often than the teacher student and cascade may be right and still count as no worse,"
        " as a share of requests: two percentage points are what a few thousand test records can tell.",
    )
    judge: Judge | None = Field(
        default=None,
        description="A model that says whose answers are better, the student's or the teacher's; for `text` above all."
        " Default: nobody does.",
    )

    def problems(self) -> Iterator[str]:
        if any(later <= earlier for earlier, later in pairwise(self.windows)):
            yield "`windows` must ascend"

    @property
    def needs_alternatives(self) -> bool:
        """Whether the score was named, and is made from the likeliest tokens at each position."""
        return any(name == self.score and feature.alternatives for name, feature in FEATURES.items())


class Serving(Section):
    """The endpoint."""

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=1, le=65_535, description="Port to listen on.")
    teacher_timeout_s: float = Field(default=60.0, gt=0, description="Longest wait for the teacher, in seconds.")
