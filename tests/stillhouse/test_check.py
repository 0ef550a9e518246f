"""`stillhouse check`: what can be known before money is spent."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stillhouse.check import check_recipe
from stillhouse.errors import UserError
from stillhouse.recipe import Recipe

MakeRecipe = Callable[..., Recipe]
MakeTokenizer = Callable[..., Any]


@pytest.fixture
def places(tmp_path: Path, make_tokenizer: MakeTokenizer) -> dict[str, Any]:
    """A teacher and a student of other words, and three rows of data."""
    for name, words in (("teacher", "good film Review Sentiment :"), ("student", "good film Sentiment Review :")):
        make_tokenizer(words).save_pretrained(tmp_path / name)
        (tmp_path / name / "config.json").write_text('{"model_type": "llama"}')
    rows = [("good", "positive"), ("good film", ""), ("good good film film", "negative")]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps({"text": t, "label": v}) + "\n" for t, v in rows))
    return {"data.path": str(tmp_path / "data.jsonl"), "teacher.model": str(tmp_path / "teacher")}


def test_counts_tokens_and_cost(make_recipe: MakeRecipe, places: dict[str, Any]) -> None:
    prices = {"prices.teacher_input": 10.0, "prices.teacher_output": 1000.0}
    found = check_recipe(make_recipe({**places, **prices}))
    assert (found.records, found.labelled) == (3, 2)
    # `Review`, `:`, the text, `Sentiment`, `:`
    assert found.prompt_tokens == pytest.approx((5 + 6 + 8) / 3)
    assert found.longest_prompt == 8
    assert found.capture_cost == pytest.approx((19 * 10 + 3 * 4 * 1000) / 1e6)
    assert found.warnings == ("3 records are few: a narrow task usually needs 500 or more",)


def test_warns_of_prompts_that_do_not_fit(make_recipe: MakeRecipe, places: dict[str, Any]) -> None:
    tight = {"teacher.engine.max_model_len": 16, "task.max_tokens": 9}
    assert "some prompts are longer than the 7 tokens that fit" in str(
        check_recipe(make_recipe({**places, **tight})).warnings
    )
    loose = {"teacher.engine.max_model_len": 16, "task.max_tokens": 8}
    assert "longer than" not in str(check_recipe(make_recipe({**places, **loose})).warnings)


def test_a_student_with_another_tokenizer(make_recipe: MakeRecipe, places: dict[str, Any], tmp_path: Path) -> None:
    init = {"student.init": {"kind": "pretrained", "model": str(tmp_path / "student")}}
    with pytest.raises(UserError, match="the token 'Review' is number 4 in the teacher and number 5 in the student"):
        check_recipe(make_recipe({**places, **init}))
    same = {"student.init": {"kind": "pretrained", "model": str(tmp_path / "teacher")}}
    check_recipe(make_recipe({**places, **same}))
