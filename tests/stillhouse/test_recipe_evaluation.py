"""What is wrong between `evaluation.score`, its windows, the task and the student."""

from typing import Any

import pytest
from calibration_made import TEXT, THREE, recipe
from pydantic import ValidationError

from stillhouse.recipe import Recipe


@pytest.mark.parametrize("score", ["auto", "sequence_probability", "margin", "quantile_25", "logistic", "isotonic"])
def test_scores_that_there_are(score: str) -> None:
    assert recipe(THREE, score=score).evaluation.score == score


@pytest.mark.parametrize(
    ("task", "evaluation", "message"),
    [
        (TEXT, {"score": "vibes"}, "Input should be 'auto', 'sequence_probability'"),
        (TEXT, {"score": "margin"}, "`evaluation.score: margin` is made from the probabilities of the choices"),
        (TEXT, {"windows": [8, 8]}, "`windows` must ascend"),
        (TEXT, {"windows": [16, 8]}, "`windows` must ascend"),
        (TEXT, {"windows": [0]}, "greater than or equal to 1"),
        (TEXT, {"windows": [8, 64]}, "must be shorter than `task.max_tokens`, which is 64"),
        (THREE, {"windows": [8]}, "`evaluation.windows` goes with `task.kind: text`"),
    ],
)
def test_what_does_not_agree(task: dict[str, Any], evaluation: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        recipe(task, **evaluation)


def test_a_student_at_an_endpoint_has_no_alternatives() -> None:
    made = recipe(THREE).model_dump() | {"student": {"openai": {"model": "gpt"}}, "capture": {"mode": "text"}}
    Recipe.model_validate({**made, "evaluation": {"score": "mean_logprob"}})
    with pytest.raises(ValidationError, match=r"`evaluation\.score: entropy` needs logprobs that are normalised"):
        Recipe.model_validate({**made, "evaluation": {"score": "entropy"}})
