"""How a model is trained: what `student` and `teacher.tune` have in common, and its parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from stillhouse.recipe.section import Section


class Workers(Section):
    """How many training processes; between two limits the training shrinks and grows with the cluster."""

    min: int = Field(ge=1, description="Fewer than this, and the training waits.")
    max: int = Field(ge=1, description="No more than this, whatever the cluster has.")

    def problems(self) -> Iterator[str]:
        if self.min > self.max:
            yield f"min ({self.min}) is more than max ({self.max})"


class Offload(Section):
    """What DeepSpeed keeps in the machine's memory instead of the GPU's."""

    optimizer: bool = Field(default=False, description="The optimizer's state; from `zero_stage` 1.")
    parameters: bool = Field(default=False, description="The parameters; with `zero_stage: 3`.")


class Lora(Section):
    """Low-rank adapters: the student's own weights stay, and small matrices beside them are trained."""

    rank: int = Field(default=16, ge=1, le=1024, description="Rank of the adapters.")
    alpha: float = Field(default=32.0, gt=0, description="Their scale, which is divided by the rank.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout in front of the adapters.")
    targets: tuple[str, ...] = Field(
        default=(), description="Names of the linear layers that get one. Default: all but the head."
    )
    quantize: Literal["nf4"] | None = Field(
        default=None, description="`nf4`: QLoRA, the frozen weights in 4 bits; needs `device: cuda`."
    )

    def problems(self) -> Iterator[str]:
        if "lm_head" in self.targets:
            yield "`targets` must not name `lm_head`: the head stays as it is, and its loss is computed in chunks"


class Tracking(Section):
    """Where the training's figures go."""

    mlflow: str | None = Field(
        default="run",
        min_length=1,
        description="`run`: an MLflow database in the run's folder `mlflow`; the address of a tracking server; or null"
        " for none.",
    )
    experiment: str | None = Field(
        default=None, min_length=1, description="MLflow experiment. Default: the recipe's name."
    )


class Training(Section):
    """How a model is trained, whatever it learns."""

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
        description="Stop early after so many validations without a lower loss. Default: train to the end. What"
        " is kept is the best of the validated ones in either case.",
    )
    checkpoint_every: int = Field(default=50, ge=1, description="Optimizer steps between two checkpoints.")
    checkpoint_minutes: float | None = Field(
        default=None, gt=0, description="A checkpoint is also written when the last one is so old."
    )

    @property
    def most_workers(self) -> int:
        """The number of workers, or the largest it may be."""
        return self.workers if isinstance(self.workers, int) else self.workers.max

    def problems(self) -> Iterator[str]:
        if isinstance(self.workers, int) and self.batch_size % (self.workers * self.micro_batch_size):
            yield (
                f"batch_size ({self.batch_size}) must be a multiple of workers × micro_batch_size"
                f" ({self.workers} × {self.micro_batch_size})"
            )
        if self.offload.optimizer and self.zero_stage == 0:
            yield "`offload.optimizer` needs `zero_stage` 1, 2 or 3"
        if self.offload.parameters and self.zero_stage != 3:
            yield "`offload.parameters` needs `zero_stage: 3`"
        if self.lora is not None:
            if self.lora.quantize is not None and self.device == "cpu":
                yield "`lora.quantize` needs `device: cuda`: on a CPU leave it out, and train plain LoRA"
            if self.lora.quantize is not None and self.zero_stage == 3:
                yield "`lora.quantize` and `zero_stage: 3` exclude each other: 4-bit weights are not partitioned"
