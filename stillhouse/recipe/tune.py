"""`teacher.tune`: the teacher, fine-tuned on gold labels before it is asked."""

from __future__ import annotations

from pydantic import Field

from stillhouse.recipe.training import Training


class Tune(Training):
    """The teacher is first fine-tuned on gold answers; what has the lowest validation loss is kept."""

    records: int = Field(
        default=500,
        ge=2,
        description="Records with a gold answer to tune on, drawn with the recipe's seed. They and their"
        " near-duplicates go into the training split, so that nothing is measured on them.",
    )
    validation: float = Field(
        default=0.1, gt=0, le=0.5, description="Share of these that is kept apart, to choose the best epoch by."
    )
    learning_rate: float = Field(
        default=2e-5, gt=0, lt=1, description="Peak of the cosine schedule; `lora` wants some ten times as much."
    )
