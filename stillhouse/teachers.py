"""A recipe's teachers by their names: its own, and the members of an ensemble."""

from __future__ import annotations

from stillhouse.data import FIRST_TEACHER
from stillhouse.recipe import Member, Recipe, Teacher


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


def _members(recipe: Recipe) -> tuple[Member, ...]:
    return recipe.ensemble.members if recipe.ensemble else ()
