"""Which teacher a recipe means: weights that are run here, or an endpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillhouse.data import FIRST_TEACHER
from stillhouse.recipe import Member, Recipe
from stillhouse.recipe import Teacher as TeacherSection
from stillhouse.run import Run

if TYPE_CHECKING:
    from ray_jobs.capture.teacher import Teacher


def section_of(recipe: Recipe, name: str) -> TeacherSection:
    """The section of the teacher called `name`; `FIRST_TEACHER` is the recipe's own."""
    if name == FIRST_TEACHER:
        return recipe.teacher
    return next(member for member in _members(recipe) if member.name == name)


def names(recipe: Recipe) -> list[str]:
    """The teachers' names, the first one's first."""
    return [FIRST_TEACHER, *(member.name for member in _members(recipe))]


def open_teacher(recipe: Recipe, run: Run, name: str) -> Teacher:
    """The teacher called `name`, ready to answer. Raises `UserError` for one that cannot be reached."""
    section = section_of(recipe, name)
    if section.url is not None:
        from ray_jobs.capture.endpoint_teacher import EndpointTeacher

        return EndpointTeacher(recipe, section, run)
    from ray_jobs.capture.engine_teacher import EngineTeacher

    return EngineTeacher(recipe, section)


def _members(recipe: Recipe) -> tuple[Member, ...]:
    return recipe.ensemble.members if recipe.ensemble else ()
