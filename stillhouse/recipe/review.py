"""`review`: how much of the teacher's answers people look at, and what is demanded of them before training."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from stillhouse.recipe.section import Section


class Review(Section):
    """The review of the teacher's completions by people."""

    share: float = Field(
        default=0.12,
        gt=0,
        le=1,
        description="Share of the records that is drawn for review, stratified; 0.1 to 0.15 is usual.",
    )
    overlap: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="Share of the sample that every reviewer sees, to tell how far they agree; the rest is shared out.",
    )
    max_error: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Training starts only if the upper end of the teacher's estimated error is at most this.",
    )
    min_judged: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="For `max_error`: share of the sample that must be judged first. Below 1 the review can be stopped"
        " when the estimate happens to look well, and the interval promises less.",
    )

    def problems(self) -> Iterator[str]:
        if self.max_error is None and self.min_judged != type(self).model_fields["min_judged"].default:
            yield "`min_judged` goes with `max_error`, which is not given"
