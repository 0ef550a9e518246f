"""A recipe's teachers by their names: its own, and the members of an ensemble."""

from __future__ import annotations

from stillhouse.data import FIRST_TEACHER
from stillhouse.recipe import Member, Recipe, Teacher
from stillhouse.run import Run


def names(recipe: Recipe) -> list[str]:
    """The teachers' names, the first one's first."""
    return [FIRST_TEACHER, *(member.name for member in _members(recipe))]


def section_of(recipe: Recipe, name: str) -> Teacher:
    """The section of the teacher called `name`; `FIRST_TEACHER` is the recipe's own."""
    if name == FIRST_TEACHER:
        return recipe.teacher
    return next(member for member in _members(recipe) if member.name == name)


def sections(recipe: Recipe) -> list[Teacher]:
    """The sections of all teachers, in the order of `names`."""
    return [recipe.teacher, *_members(recipe)]


def tuned(recipe: Recipe, run: Run) -> Recipe:
    """The recipe with the weights that really answer: those of RUN/teacher, if the teacher is tuned first.

    What depends on the teacher is hashed (`lineage.inputs`) and named with the recipe as the user wrote it.

    Raises:
        UserError: it has not been tuned yet.
    """
    if recipe.teacher.tune is None:
        return recipe
    run.finished("teacher", "tune")
    return recipe.model_copy(
        update={"teacher": recipe.teacher.model_copy(update={"model": f"{run.uri.rstrip('/')}/teacher"})}
    )


def told(teacher: Teacher) -> str:
    """The teacher's name, for people: what it was tuned on is part of it."""
    return teacher.model if teacher.tune is None else f"{teacher.model}, tuned on {teacher.tune.records} gold labels"


def _members(recipe: Recipe) -> tuple[Member, ...]:
    return recipe.ensemble.members if recipe.ensemble else ()
