"""`student`: the small model, and how it is trained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from stillhouse.recipe.objective import Divergence
from stillhouse.recipe.openai_student import OpenAIStudent
from stillhouse.recipe.section import Section
from stillhouse.recipe.teacher import Engine
from stillhouse.recipe.training import Lora, Offload, Tracking, Workers


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


class Student(Section):
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
    fused_head: bool = Field(
        default=True,
        description="Compute the loss from the hidden states in chunks of tokens, so that the logits of a batch never"
        " exist all at once.",
    )
    epochs: int = Field(default=3, ge=1, description="Passes over the training records.")
    max_steps: int | None = Field(
        default=None, ge=1, description="Stop after so many optimizer steps. Default: all epochs."
    )
    learning_rate: float = Field(default=2e-4, gt=0, lt=1, description="Peak of the cosine schedule.")
    warmup_ratio: float = Field(
        default=0.05, ge=0, lt=1, description="Share of the steps that warm the learning rate up."
    )
    weight_decay: float = Field(default=0.01, ge=0, lt=1, description="AdamW's weight decay.")
    max_grad_norm: float = Field(default=1.0, gt=0, description="Gradients are clipped to this norm.")
    batch_size: int = Field(default=32, ge=1, description="Records in one optimizer step, over all workers.")
    micro_batch_size: int = Field(
        default=8, ge=1, description="Records that one worker runs through the model at once."
    )
    max_length: int = Field(default=1024, ge=8, description="Longest prompt and completion in training, in tokens.")
    packing: bool = Field(
        default=False,
        description="Run a micro-batch as one row of records end to end, without padding, each blind to the others.",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="What the model computes in; master weights and loss are float32. `auto`: bfloat16 on a GPU,"
        " float32 on a CPU.",
    )
    gradient_checkpointing: bool = Field(
        default=False, description="Compute activations twice instead of keeping them: slower, with less memory."
    )
    lora: Lora | None = Field(default=None, description="Train adapters alone. Default: all weights.")
    zero_stage: Literal[0, 1, 2, 3] = Field(default=2, description="DeepSpeed ZeRO stage.")
    offload: Offload = Field(default_factory=Offload, description="What lies in the machine's memory, not the GPU's.")
    workers: Annotated[int, Field(ge=1)] | Workers = Field(
        default=2,
        description="Training processes: one a GPU, or a share of the CPU's cores each. `{min: 1, max: 4}` takes what"
        " the cluster has, and goes on with fewer or more when that changes.",
    )
    device: Literal["cpu", "cuda"] = Field(default="cpu", description="What the workers train on.")
    validate_every: int | None = Field(
        default=None, ge=1, description="Optimizer steps between two validations. Default: one an epoch."
    )
    patience: int | None = Field(
        default=None,
        ge=1,
        description="Stop early after so many validations without a lower loss. Default: train to the end. The student"
        " is the best of the validated ones in either case.",
    )
    checkpoint_every: int = Field(default=50, ge=1, description="Optimizer steps between two checkpoints.")
    checkpoint_minutes: float | None = Field(
        default=None, gt=0, description="A checkpoint is also written when the last one is so old."
    )
    tracking: Tracking = Field(default_factory=Tracking, description="Where the training's figures go.")

    @property
    def most_workers(self) -> int:
        """The number of workers, or the largest it may be."""
        return self.workers if isinstance(self.workers, int) else self.workers.max

    def problems(self) -> Iterator[str]:
        if self.openai is not None:
            for name, field in type(self).model_fields.items():
                if name not in _OF_AN_API and getattr(self, name) != field.get_default(call_default_factory=True):
                    yield f"`{name}` is for weights that are trained here, not for `openai`: leave it out"
            if self.kd_weight not in (0, type(self).model_fields["kd_weight"].default):
                yield "`kd_weight`: `openai` learns from words alone, not from distributions: leave it out"
        if isinstance(self.workers, int) and self.batch_size % (self.workers * self.micro_batch_size):
            yield (
                f"batch_size ({self.batch_size}) must be a multiple of workers × micro_batch_size"
                f" ({self.workers} × {self.micro_batch_size})"
            )
        if self.kd_weight + self.ce_weight <= 0:
            yield "kd_weight and ce_weight must not both be zero"
        if self.kd_weight > 0 and self.divergence.tail == "sampled" and self.temperature != 1:
            yield "`divergence.tail: sampled` is unbiased at a temperature of 1 alone: set `temperature: 1`"
        if self.offload.optimizer and self.zero_stage == 0:
            yield "`offload.optimizer` needs `zero_stage` 1, 2 or 3"
        if self.offload.parameters and self.zero_stage != 3:
            yield "`offload.parameters` needs `zero_stage: 3`"
        if self.lora is not None:
            if self.lora.quantize is not None and self.device == "cpu":
                yield "`lora.quantize` needs `device: cuda`: on a CPU leave it out, and train plain LoRA"
            if self.lora.quantize is not None and self.zero_stage == 3:
                yield "`lora.quantize` and `zero_stage: 3` exclude each other: 4-bit weights are not partitioned"
            if self.init.kind == "fresh":
                yield "`lora` and `init.kind: fresh` exclude each other: random weights would stay random"
