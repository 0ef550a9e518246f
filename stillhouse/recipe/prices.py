"""`prices`: what tokens, machines and people cost."""

from __future__ import annotations

from pydantic import Field

from stillhouse.recipe.section import Section


class Prices(Section):
    """What tokens, machines and people cost; a price that is left out is not known, and 0 is free."""

    currency: str = Field(default="USD", min_length=1, max_length=8, description="Name of the currency.")
    teacher_input: float | None = Field(
        default=None, ge=0, description="A million prompt tokens read by the teacher. Without it and `teacher_output`,"
        " a teacher of weights costs its hours."
    )  # fmt: skip
    teacher_output: float | None = Field(default=None, ge=0, description="A million tokens written by the teacher.")
    student_input: float | None = Field(default=None, ge=0, description="A million prompt tokens read by the student.")
    student_output: float | None = Field(default=None, ge=0, description="A million tokens written by the student.")
    batch_discount: float = Field(
        default=0.5, ge=0, lt=1, description="What the Batch API takes off the teacher's prices, as a share."
    )
    gpu_hour: float | None = Field(default=None, ge=0, description="One GPU for an hour.")
    cpu_hour: float | None = Field(
        default=None, ge=0, description="One engine or training worker that runs on a CPU, for an hour."
    )
    reviewer_hour: float | None = Field(default=None, ge=0, description="An hour of a person who reviews.")
    trained_tokens: float | None = Field(
        default=None, ge=0, description="A million tokens that an API trains a student on (`student.openai`)."
    )
    training: float | None = Field(
        default=None,
        ge=0,
        description="What the student's training and evaluation cost, once, as one sum in place of hours and tokens.",
    )
    monthly_requests: int | None = Field(
        default=None,
        ge=1,
        description="Requests a month that the student is meant for; `check` and `cost` tell the payback.",
    )
