"""Parts of `student` that say how its training is spread, shrunk, watched and followed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

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
