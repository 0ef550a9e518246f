"""The recipe: one YAML file that says everything about a distillation.

The models hold every key with its default, its limits and its meaning; `stillhouse.recipe_file` reads the YAML.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from stillhouse.recipe.agreement import section_problems
from stillhouse.recipe.capture import Capture, Engines
from stillhouse.recipe.curation import Curation, Filters
from stillhouse.recipe.data import Data
from stillhouse.recipe.judge import Judge
from stillhouse.recipe.objective import Divergence, DivergenceKind, Tail
from stillhouse.recipe.openai_student import OpenAIStudent
from stillhouse.recipe.prices import Prices
from stillhouse.recipe.release import Evaluation, Serving
from stillhouse.recipe.review import Review
from stillhouse.recipe.section import Disagreement, Name, Section
from stillhouse.recipe.student import Student, StudentInit
from stillhouse.recipe.task import Message, Sampling, Task
from stillhouse.recipe.teacher import Engine, Ensemble, Member, Teacher
from stillhouse.recipe.training import Lora, Offload, Tracking, Training, Workers
from stillhouse.recipe.tune import Tune

__all__ = [
    "Capture",
    "Curation",
    "Data",
    "Disagreement",
    "Divergence",
    "DivergenceKind",
    "Engine",
    "Engines",
    "Ensemble",
    "Evaluation",
    "Filters",
    "Judge",
    "Lora",
    "Member",
    "Message",
    "Offload",
    "OpenAIStudent",
    "Prices",
    "Recipe",
    "Review",
    "Sampling",
    "Section",
    "Serving",
    "Student",
    "StudentInit",
    "Tail",
    "Task",
    "Teacher",
    "Tracking",
    "Training",
    "Tune",
    "Workers",
    "section_problems",
]


class Recipe(Section):
    """One distillation, from prompts to an endpoint."""

    name: Name = Field(description="Lower-case letters, digits and dashes; also the name of the served model.")
    seed: int = Field(default=0, ge=0, lt=2**31, description="Seed of every random choice.")
    task: Task = Field(description="What the models are asked.")
    data: Data = Field(description="Where the prompts come from.")
    teacher: Teacher = Field(description="The large model.")
    ensemble: Ensemble | None = Field(default=None, description="More teachers beside it.")
    capture: Capture = Field(default_factory=Capture, description="How its answers are taken.")
    curation: Curation = Field(default_factory=Curation, description="How they become a dataset.")
    review: Review = Field(default_factory=Review, description="Which of them people look at.")
    student: Student = Field(default_factory=Student, description="The small model and its training.")
    evaluation: Evaluation = Field(default_factory=Evaluation, description="What the student must promise.")
    serving: Serving = Field(default_factory=Serving, description="The endpoint.")
    prices: Prices = Field(default_factory=Prices, description="What tokens, machines and people cost.")

    def problems(self) -> Iterator[str]:
        return section_problems({name: getattr(self, name) for name in type(self).model_fields})
