"""Which teacher a recipe means: weights that are run here, or an endpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillhouse.recipe import Recipe
from stillhouse.run import Run
from stillhouse.teachers import section_of

if TYPE_CHECKING:
    from ray_jobs.capture.teacher import Teacher


def open_teacher(recipe: Recipe, run: Run, name: str) -> Teacher:
    """The teacher called `name`, ready to answer. Raises `UserError` for one that cannot be reached."""
    section = section_of(recipe, name)
    if section.url is not None:
        from ray_jobs.capture.endpoint_teacher import EndpointTeacher

        return EndpointTeacher(recipe, section, run)
    from ray_jobs.capture.engine_teacher import EngineTeacher

    return EngineTeacher(recipe, section)
