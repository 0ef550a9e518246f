"""`student`: the small model, and how it is trained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from stillhouse.recipe.section import Section
from stillhouse.recipe.teacher import Engine


class StudentInit(Section):
    """Where the student's first weights come from."""

    kind: Literal["teacher_layers", "pretrained"] = Field(
        default="teacher_layers",
        description="`teacher_layers`: cut from the teacher; `pretrained`: a model of its own.",
    )
    layers: int = Field(
        default=6, ge=1, description="For `teacher_layers`: how many of the teacher's layers, evenly spaced."
    )
    model: str | None = Field(default=None, description="For `pretrained`: a Hugging Face name or a folder.")

    def problems(self) -> Iterator[str]:
        if (self.kind == "pretrained") != (self.model is not None):
            yield "`model` goes with `kind: pretrained`, and `kind: pretrained` needs it"


class Student(Section):
    """The small model, and how it is trained."""

    init: StudentInit = Field(default_factory=StudentInit, description="Where its first weights come from.")
    engine: Engine = Field(default_factory=Engine, description="How vLLM runs the student.")
    kd_weight: float = Field(default=0.7, ge=0, description="Weight of the KL to the teacher's distribution.")
    ce_weight: float = Field(default=0.3, ge=0, description="Weight of the cross-entropy on the teacher's tokens.")
    temperature: float = Field(default=2.0, gt=0, le=20, description="Softens both distributions in the KL.")
    epochs: int = Field(default=3, ge=1, description="Passes over the training records.")
    max_steps: int | None = Field(
        default=None, ge=1, description="Stop after so many optimizer steps. Default: all epochs."
    )
    learning_rate: float = Field(default=2e-4, gt=0, lt=1, description="Peak of the cosine schedule.")
    warmup_ratio: float = Field(
        default=0.05, ge=0, lt=1, description="Share of the steps that warm the learning rate up."
    )
    batch_size: int = Field(default=32, ge=1, description="Records in one optimizer step, over all workers.")
    micro_batch_size: int = Field(
        default=8, ge=1, description="Records that one worker runs through the model at once."
    )
    max_length: int = Field(default=1024, ge=8, description="Longest prompt and completion in training, in tokens.")
    zero_stage: Literal[0, 1, 2, 3] = Field(default=2, description="DeepSpeed ZeRO stage.")
    workers: int = Field(
        default=2, ge=1, description="Training processes: one a GPU, or a share of the CPU's cores each."
    )
    device: Literal["cpu", "cuda"] = Field(default="cpu", description="What the workers train on.")
    checkpoint_every: int = Field(default=50, ge=1, description="Optimizer steps between two checkpoints.")

    def problems(self) -> Iterator[str]:
        if self.batch_size % (self.workers * self.micro_batch_size):
            yield (
                f"batch_size ({self.batch_size}) must be a multiple of workers × micro_batch_size"
                f" ({self.workers} × {self.micro_batch_size})"
            )
        if self.kd_weight + self.ce_weight <= 0:
            yield "kd_weight and ce_weight must not both be zero"
