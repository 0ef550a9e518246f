"""`student`: the small model, and how it is trained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from stillhouse.recipe.objective import Divergence
from stillhouse.recipe.openai_student import OpenAIStudent
from stillhouse.recipe.section import Section
from stillhouse.recipe.teacher import Engine
from stillhouse.recipe.training import Tracking, Training


class StudentInit(Section):
    """Where the student's first weights come from."""

    kind: Literal["teacher_layers", "pretrained", "fresh"] = Field(
        default="teacher_layers",
        description="`teacher_layers`: cut from the teacher; `pretrained`: a model of its own; `fresh`: random.",
    )
    layers: Annotated[int, Field(ge=1)] | tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=6,
        description="For `teacher_layers`: how many of the teacher's layers, or the list of them, counted from 0.",
    )
    select: Literal["even", "every", "first", "last", "ends"] = Field(
        default="even",
        description="For a number of `layers`: `even`ly spaced with the first and the last; `every` n-th from the"
        " first; the `first`; the `last`; or half of them from each of both `ends`.",
    )
    model: str | None = Field(default=None, description="For `pretrained`: a Hugging Face name or a folder.")
    config: dict[str, Any] = Field(
        default_factory=dict,
        description="For `fresh`: keys of the teacher's `config.json` that the student has other values of,"
        " `{num_hidden_layers: 4, hidden_size: 256}` say.",
    )

    def problems(self) -> Iterator[str]:
        if (self.kind == "pretrained") != (self.model is not None):
            yield "`model` goes with `kind: pretrained`, and `kind: pretrained` needs it"
        if (self.kind == "fresh") != bool(self.config):
            yield "`config` goes with `kind: fresh`, and `kind: fresh` needs it"
        if isinstance(self.layers, tuple):
            if not self.layers or list(self.layers) != sorted(set(self.layers)):
                yield "`layers` as a list names each layer once, in rising order"
            if self.select != "even":
                yield "`select` goes with a number of `layers`, not with a list of them"


_OF_AN_API = {"openai", "ce_on", "kd_weight"}
"""Keys that may be said of a student behind an API; there is no divergence, whatever `kd_weight` says."""


class Student(Training):
    """The small model, and how it is trained."""

    openai: OpenAIStudent | None = Field(
        default=None,
        description="A commercial model instead, fine-tuned through its API on the teacher's words, or the gold answers"
        " (`ce_on: gold`). Excludes all other keys of `student`.",
    )
    init: StudentInit = Field(default_factory=StudentInit, description="Where its first weights come from.")
    engine: Engine = Field(default_factory=Engine, description="How vLLM runs the student.")
    kd_weight: float = Field(default=0.7, ge=0, description="Weight of the divergence from the teacher's distribution.")
    ce_weight: float = Field(default=0.3, ge=0, description="Weight of the cross-entropy.")
    ce_on: Literal["teacher", "gold"] = Field(
        default="teacher",
        description="Whose tokens the cross-entropy is on: the captured completion's, or the gold answer's (of the"
        " records that have one).",
    )
    temperature: float = Field(default=2.0, gt=0, le=20, description="Softens both distributions in the divergence.")
    divergence: Divergence = Field(default_factory=Divergence, description="Which divergence.")
    tracking: Tracking = Field(default_factory=Tracking, description="Where the training's figures go.")

    def problems(self) -> Iterator[str]:
        if self.openai is not None:
            for name, field in type(self).model_fields.items():
                if name not in _OF_AN_API and getattr(self, name) != field.get_default(call_default_factory=True):
                    yield f"`{name}` is for weights that are trained here, not for `openai`: leave it out"
            if self.kd_weight not in (0, type(self).model_fields["kd_weight"].default):
                yield "`kd_weight`: `openai` learns from words alone, not from distributions: leave it out"
        yield from super().problems()
        if self.kd_weight + self.ce_weight <= 0:
            yield "kd_weight and ce_weight must not both be zero"
        if self.kd_weight > 0 and self.divergence.tail == "sampled" and self.temperature != 1:
            yield "`divergence.tail: sampled` is unbiased at a temperature of 1 alone: set `temperature: 1`"
        if self.lora is not None and self.init.kind == "fresh":
            yield "`lora` and `init.kind: fresh` exclude each other: random weights would stay random"
