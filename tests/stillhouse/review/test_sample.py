"""The sample: what it is drawn from, that it stays, and when it is drawn again."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from reviews_made import JSON_TASK, MakeRecipe, made, record, sentiments

from stillhouse.errors import UserError
from stillhouse.recipe import Recipe
from stillhouse.review.sample import SAMPLE, Sample, content_of, dataset_tables, draw
from stillhouse.review.state import current_sample
from stillhouse.run import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.open(str(tmp_path / "run"))


def recommitted(run: Run, recipe: Recipe, inputs: dict[str, str]) -> None:
    run.commit("dataset", recipe=recipe, inputs=inputs, began=0.0)


def test_classes_have_their_share_and_all_splits_are_drawn_from(run: Run, make_recipe: MakeRecipe) -> None:
    recipe = make_recipe()
    sample = current_sample(recipe, made(run, recipe, sentiments(600)))
    assert sample.population == 600
    assert len(sample.items) == pytest.approx(72, abs=9)
    answers = Counter(row["completion"].strip() for row in sentiments(600))
    drawn = Counter(item.label for item in sample.items)
    for label, count in answers.items():
        assert drawn[label] == pytest.approx(0.12 * count, abs=5)
    assert {stratum.name.count(",") for stratum in sample.strata} == {2}
    assert sum(stratum.drawn for stratum in sample.strata) == len(sample.items)
    held_out = sum(int(item.id[1:]) >= 480 for item in sample.items)
    assert 5 <= held_out <= 25


def test_it_comes_back_as_it_was_stored(run: Run, make_recipe: MakeRecipe) -> None:
    recipe = make_recipe()
    sample = current_sample(recipe, made(run, recipe, sentiments(100)))
    loaded = Sample.load(run)
    assert loaded == sample
    item = sample.items[0]
    row = next(row for row in sentiments(100) if row["id"] == item.id)
    assert item.prompt(recipe.task).text == f"Review: {item.fields['text']}\nSentiment:"
    assert item.content == content_of(recipe.task, item.fields, row["completion"])
    assert item.tokens == len(row["prompt_token_ids"]) + 2
    assert item.confidence == pytest.approx(2.718281828 ** row["token_logprobs"][0], rel=1e-5)


def test_order_does_not_matter_and_a_few_more_records_change_little(run: Run, make_recipe: MakeRecipe) -> None:
    recipe = make_recipe()

    def drawn(rows: list[dict[str, Any]], **changes: Any) -> list[str]:
        made(run, recipe, rows)
        return [item.id for item in draw(dataset_tables(run), make_recipe(changes), named="x").items]

    first = drawn(sentiments(500))
    assert drawn(sentiments(500)[::-1]) == first
    assert len({*first} & {*drawn(sentiments(510))}) > 0.8 * len(first)
    assert len({*first} & {*drawn(sentiments(500), seed=1)}) < 0.4 * len(first)


def test_a_record_with_several_completions_is_drawn_once(run: Run, make_recipe: MakeRecipe) -> None:
    recipe = make_recipe({"review.share": 1.0})
    rows = [{**record(i, " positive"), "sample": number} for i in range(40) for number in range(3)]
    sample = current_sample(recipe, made(run, recipe, rows))
    assert len(sample.items) == sample.population == 40


def test_json_is_one_class_and_an_endpoint_may_tell_no_tokens(run: Run, make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(JSON_TASK)
    rows = [
        {**record(i, '{"name": "Ann"}', told=False), "prompt_token_ids": [], "completion_token_ids": []}
        for i in range(100)
    ]
    sample = current_sample(recipe, made(run, recipe, rows))
    assert {item.label for item in sample.items} == {""}
    assert {stratum.name for stratum in sample.strata} == {"short", "medium", "long"}
    assert all(item.confidence is None and item.tokens > 20 for item in sample.items)


def test_an_end_whose_logprob_is_not_told_does_not_hide_the_others(run: Run, make_recipe: MakeRecipe) -> None:
    recipe = make_recipe({"review.share": 1.0})
    rows = [{**record(i, " positive"), "token_logprobs": [-0.5, float("nan")]} for i in range(20)]
    sample = current_sample(recipe, made(run, recipe, rows))
    assert {round(item.confidence or 0, 4) for item in sample.items} == {0.6065}


def test_it_is_drawn_again_when_the_dataset_is_another_and_not_after_a_review(
    run: Run, make_recipe: MakeRecipe
) -> None:
    recipe = make_recipe()
    made(run, recipe, sentiments(200))
    recommitted(run, recipe, {"capture": "one"})
    first = current_sample(recipe, run)

    made(run, recipe, sentiments(200)[:150])  # the review has rejected some
    recommitted(run, recipe, {"capture": "one", "review": "said"})
    assert current_sample(recipe, run) == first

    with pytest.raises(UserError, match="run `stillhouse curate` first, which draws it from all records"):
        current_sample(make_recipe({"review.share": 0.2}), run)

    recommitted(run, recipe, {"capture": "two"})
    again = current_sample(recipe, run)
    assert (again.population, first.population) == (150, 200)


def test_there_must_be_a_dataset_and_a_sample_that_can_be_read(run: Run, make_recipe: MakeRecipe) -> None:
    recipe = make_recipe()
    with pytest.raises(UserError, match="has no finished dataset: run `stillhouse curate` first"):
        current_sample(recipe, run)
    made(run, recipe, sentiments(60))
    current_sample(recipe, run)
    run.storage.write(SAMPLE, b"PAR1 and no more")
    with pytest.raises(UserError, match=r"review/sample\.parquet is damaged"):
        current_sample(recipe, run)
