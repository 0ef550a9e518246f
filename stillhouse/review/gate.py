"""The bound on the teacher's error that must hold before a student is trained."""

from __future__ import annotations

from stillhouse.errors import UserError
from stillhouse.recipe import Recipe
from stillhouse.review.state import ReviewState
from stillhouse.run import Run


def require_reviewed(recipe: Recipe, run: Run) -> None:
    """See that the review shows what `review.max_error` demands, where the recipe has it.

    Raises:
        UserError: it does not yet; with what is estimated, how much is judged, and the command to go on with.
    """
    if recipe.review.max_error is None:
        return
    problem = ReviewState(recipe, run).standing().problem
    if problem is not None:
        raise UserError(
            f"{problem}; go on with `stillhouse review {run.uri}`, or mend the task's prompt or the teacher"
        )
