"""What every section of the recipe is: read only, and strict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, StringConstraints, model_validator

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,48}[a-z0-9])?$")]


class Section(BaseModel):
    """A part of the recipe: read only, and without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if problems := list(self.problems()):
            raise Disagreement(problems)
        return self

    def problems(self) -> Iterator[str]:
        """What is wrong between keys that are each right by themselves."""
        return iter(())


class Disagreement(ValueError):
    """Problems between the keys of a section; pydantic takes but one error from a validator."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems
