"""A review that goes on: what is kept, who sees what next, and where it stands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from reviews_made import MakeRecipe, made, sentiments

from stillhouse.errors import UserError
from stillhouse.recipe import Recipe
from stillhouse.review.gate import require_reviewed
from stillhouse.review.journal import JUDGEMENTS
from stillhouse.review.judgement import Verdict
from stillhouse.review.sample import Item
from stillhouse.review.state import ReviewState
from stillhouse.run import Run


@pytest.fixture(params=["local", "s3"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    return Run.open(request.getfixturevalue("s3")() if request.param == "s3" else str(tmp_path / "run"))


@pytest.fixture
def recipe(make_recipe: MakeRecipe) -> Recipe:
    return make_recipe({"review.share": 0.1, "review.overlap": 0.2})


def verdict_of(item: Item) -> Verdict:
    """What one who knows says."""
    return "accept" if item.completion.strip() == item.gold else "reject"


def judge_all(state: ReviewState, reviewer: str, most: int = 10_000) -> int:
    count = 0
    while count < most and (item := state.next_item(reviewer)) is not None:
        state.judge(item, reviewer, verdict_of(item))
        count += 1
    return count


def test_judgements_outlast_the_process_and_sittings_do_not_meet(run: Run, recipe: Recipe) -> None:
    made(run, recipe, sentiments(100))
    first, second = ReviewState(recipe, run), ReviewState(recipe, run)
    one, other = first.sample.items[:2]
    first.judge(one, "ada", "accept")
    second.judge(one, "ben", "reject")
    second.judge(other, "ben", "correct", "positive" if other.label == "negative" else "negative")
    assert set(first.said) == {one.id}
    first.refresh()
    for state in (first, ReviewState(recipe, run)):
        assert {name: each.verdict for name, each in state.said[one.id].items()} == {"ada": "accept", "ben": "reject"}
        assert state.said[other.id]["ben"].correction is not None
    first.judge(one, "ada", None)
    assert set(ReviewState(recipe, run).said[one.id]) == {"ben"}
    assert len(run.storage.list(JUDGEMENTS)) == 2


def test_a_judgement_that_is_refused_is_not_kept(run: Run, recipe: Recipe) -> None:
    state = ReviewState(recipe, made(run, recipe, sentiments(60)))
    with pytest.raises(UserError, match="none of the choices"):
        state.judge(state.sample.items[0], "ada", "correct", "so so")
    assert state.said == {}
    assert run.storage.list(JUDGEMENTS) == []


def test_reviewers_share_the_sample_out(run: Run, recipe: Recipe) -> None:
    state = ReviewState(recipe, made(run, recipe, sentiments(400)))
    sample, shared = len(state.sample.items), len(state.overlap())
    assert shared == pytest.approx(0.2 * sample, abs=1)
    judge_all(state, "ada", shared + 5)
    assert {item.id for item in state.overlap()} <= set(state.said)
    # One who joins later begins with what all see, and goes on with what nobody has seen.
    assert judge_all(state, "ben") == sample - 5
    assert judge_all(state, "ada") == 0
    # A third one sees what all see, and nothing else.
    assert judge_all(state, "cleo") == shared
    standing = state.standing()
    assert standing.reviewers == {"ada": shared + 5, "ben": sample - 5, "cleo": shared}
    assert standing.judged == sample
    assert {(pair.first, pair.second, pair.n) for pair in standing.agreement} == {
        ("ada", "ben", shared),
        ("ada", "cleo", shared),
        ("ben", "cleo", shared),
    }


def test_two_at_work_together_seldom_take_the_same(run: Run, recipe: Recipe, make_recipe: MakeRecipe) -> None:
    alone = make_recipe({"review.share": 0.3, "review.overlap": 0.0})
    state = ReviewState(alone, made(run, alone, sentiments(200)))
    same = 0
    for _ in range(20):
        shown = {name: state.next_item(name) for name in ("ada", "ben")}
        same += shown["ada"] == shown["ben"]
        for name, item in shown.items():
            assert item is not None
            state.judge(item, name, "accept")
    assert same <= 3


def test_what_reviewers_are_divided_on_is_shown_to_a_third(run: Run, recipe: Recipe) -> None:
    state = ReviewState(recipe, made(run, recipe, sentiments(200)))
    disputed = state.sample.items[-1]
    state.judge(disputed, "ada", "accept")
    state.judge(disputed, "ben", "reject")
    standing = state.standing()
    assert standing.disputed == [disputed.id]
    assert standing.error is not None
    assert standing.error.value == 1, "counted as an error until it is resolved"
    for item in state.overlap():
        state.judge(item, "cleo", "accept")
    assert state.next_item("cleo") == disputed
    state.judge(disputed, "cleo", "accept")
    assert state.standing().disputed == []


def test_a_damaged_line_is_named(run: Run, recipe: Recipe) -> None:
    made(run, recipe, sentiments(60))
    state = ReviewState(recipe, run)
    judge_all(state, "ada", 2)
    (key,) = run.storage.list(JUDGEMENTS)
    run.storage.write(key, run.storage.read(key)[:-20])
    with pytest.raises(UserError, match=rf"{key}, line 2 is damaged: remove the line"):
        ReviewState(recipe, run)


def test_judgements_of_another_completion_do_not_count(run: Run, recipe: Recipe) -> None:
    rows = sentiments(100)
    state = ReviewState(recipe, made(run, recipe, rows))
    judge_all(state, "ada")
    changed = [{**row, "completion": " positive"} for row in rows]
    made(run, recipe, changed)
    run.commit("dataset", recipe=recipe, inputs={"capture": "again"}, began=0.0)
    again = ReviewState(recipe, run)
    kept = {row["id"] for row, old in zip(changed, rows, strict=True) if row["completion"] == old["completion"]}
    assert set(again.said) <= kept
    assert again.said


def test_the_gate(run: Run, make_recipe: MakeRecipe) -> None:
    def gated(**changes: float) -> Recipe:
        return make_recipe({f"review.{name}": value for name, value in changes.items()})

    made(run, gated(), sentiments(400, wrong=0.05))
    require_reviewed(gated(), run)
    bound = gated(max_error=0.2)
    with pytest.raises(UserError) as caught:
        require_reviewed(bound, run)
    assert str(caught.value).startswith("`review.max_error` asks for 48 judged records, and there are 0; go on with")
    assert f"`stillhouse review {run.uri}`" in str(caught.value)
    with pytest.raises(UserError, match=r"48 records show 7\.0% at the least, even if none is wrong"):
        require_reviewed(gated(max_error=0.03), run)

    state = ReviewState(bound, run)
    judge_all(state, "ada", 30)
    with pytest.raises(UserError, match="asks for 48 judged records, and there are 30"):
        require_reviewed(bound, run)
    require_reviewed(gated(max_error=0.2, min_judged=0.5), run)
    judge_all(state, "ada")
    error = state.standing().error
    assert error is not None
    assert error.value < error.high < 0.2
    require_reviewed(bound, run)
    require_reviewed(gated(max_error=error.high), run)
    with pytest.raises(UserError, match=r"the teacher's error is estimated at \d\.\d% \(95%: .*\) from 48 judged"):
        require_reviewed(gated(max_error=error.high - 0.002), run)


def test_where_it_stands_is_one_json_object(run: Run, recipe: Recipe) -> None:
    state = ReviewState(recipe, made(run, recipe, sentiments(100)))
    judge_all(state, "ada")
    found = json.loads(state.standing().model_dump_json())
    assert (found["records"], found["judged"], found["problem"]) == (100, found["sample"], None)
    assert sum(found["verdicts"].values()) == found["sample"]
