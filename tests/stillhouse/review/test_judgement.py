"""Judgements: what the task allows, which of them count, what the majority says, and how far reviewers agree."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from reviews_made import JSON_TASK, TEXT_TASK, MakeRecipe

from stillhouse.errors import UserError
from stillhouse.review.agreement import agreements
from stillhouse.review.judgement import Judgement, Verdict, checked_correction, checked_name, standing
from stillhouse.review.outcome import Outcome, outcome, outcomes, settled
from stillhouse.review.sample import Item

START = datetime(2026, 1, 1, tzinfo=UTC)


def item(completion: str) -> Item:
    return Item("r0", "hash", 0, "", 5, {"text": "x"}, completion, None, 0.9)


def said(
    reviewer: str, verdict: Verdict | None, correction: str | None = None, *, after: int = 0, content: str = "hash"
) -> Judgement:
    at = START + timedelta(seconds=after)
    return Judgement(id="r0", content=content, reviewer=reviewer, verdict=verdict, correction=correction, at=at)


@pytest.mark.parametrize(
    ("task", "teachers", "text", "kept"),
    [
        ({}, " positive", " negative\n", "negative"),
        ({"data.labels": {"0": "negative"}}, " positive", "0", "negative"),
        (JSON_TASK, '{"name": "Ann"}', '{\n  "name": "Bo",\n  "age": 3}', '{"name": "Bo", "age": 3}'),
        (JSON_TASK, '{"name": "Ann"}', '{"age": 1, "name": "größte"}', '{"age": 1, "name": "größte"}'),
        (TEXT_TASK, " a film", "another film ", "another film"),
    ],
)
def test_a_correction_is_kept_as_the_task_reads_it(
    make_recipe: MakeRecipe, task: dict[str, Any], teachers: str, text: str, kept: str
) -> None:
    assert checked_correction(make_recipe(task), item(teachers), text) == kept


@pytest.mark.parametrize(
    ("task", "teachers", "text", "sentence"),
    [
        ({}, " positive", "neutral", "the correction 'neutral' is none of the choices 'positive', 'negative'"),
        ({}, " positive", "positive", "is the teacher's own answer: accept it instead"),
        ({}, " positive", " ", "the correction is empty"),
        (TEXT_TASK, " a film", "a film", "is the teacher's own answer"),
        (JSON_TASK, "{}", '{"name": ', "the correction is not JSON: Expecting value: line 1"),
        (JSON_TASK, "{}", '{"name": 3}', r"`task.json_schema`: \$.name: 3 is not of type 'string'"),
        (JSON_TASK, "{}", '{"age": 3}', "'name' is a required property"),
        (JSON_TASK, "{}", '{"name": "A", "age": -1}', r"\$.age: -1 is less than the minimum"),
        (JSON_TASK, "{}", '{"name": "A", "age": NaN}', "does not satisfy"),
        (JSON_TASK, '{"name":"A","age":1}', '{"age": 1, "name": "A"}', "is the teacher's own answer"),
    ],
)
def test_a_correction_that_the_task_does_not_allow(
    make_recipe: MakeRecipe, task: dict[str, Any], teachers: str, text: str, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        checked_correction(make_recipe(task), item(teachers), text)


def test_names() -> None:
    assert checked_name("  Ada   Lovelace ") == "Ada Lovelace"
    for bad in ("", "  ", "a" * 65, "a\x00b", "\u202eevil"):
        with pytest.raises(UserError, match="a reviewer's name has 1 to 64 printable characters"):
            checked_name(bad)


def test_a_correction_belongs_to_its_verdict() -> None:
    with pytest.raises(ValidationError):
        said("a", "correct")
    with pytest.raises(ValidationError):
        said("a", "accept", "x")


def test_the_last_judgement_counts_and_may_be_taken_back() -> None:
    told = [said("a", "reject", after=2), said("a", "accept", after=1), said("b", "accept"), said("b", None, after=3)]
    ((key, found),) = standing(told).items()
    assert key == ("r0", "hash")
    assert {name: each.verdict for name, each in found.items()} == {"a": "reject"}
    assert standing([said("a", "accept"), said("a", None, after=1)]) == {}
    # What was said of another completion of the record stays said of that one.
    assert len(standing([said("a", "accept"), said("a", "reject", content="other")])) == 2


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["accept"], Outcome("accept")),
        (["reject"], Outcome("reject")),
        (["negative"], Outcome("correct", "negative")),
        (["accept", "reject"], Outcome("disputed")),
        (["accept", "negative"], Outcome("disputed")),
        (["accept", "accept", "negative"], Outcome("accept")),
        (["accept", "negative", "negative"], Outcome("correct", "negative")),
        (["reject", "negative"], Outcome("reject")),
        (["accept", "reject", "negative"], Outcome("reject")),
        (["reject", "negative", " negative"], Outcome("correct", "negative")),
    ],
)
def test_the_majority(make_recipe: MakeRecipe, verdicts: list[str], expected: Outcome) -> None:
    task = make_recipe().task
    told = [
        said(str(i), verdict) if verdict in ("accept", "reject") else said(str(i), "correct", verdict)  # type: ignore[arg-type]
        for i, verdict in enumerate(verdicts)
    ]
    found = outcome(task, told)
    assert found == expected
    assert found.error is (expected.verdict != "accept")
    assert bool(settled(outcomes(task, told))) is (expected.verdict != "disputed")


def pairs(first: list[Verdict], second: list[Verdict]) -> list[dict[str, Judgement]]:
    text = {"correct": "x"}
    return [
        {"a": said("a", one, text.get(one)), "b": said("b", other, text.get(other))}
        for one, other in zip(first, second, strict=True)
    ]


VERDICT = st.sampled_from(["accept", "correct", "reject"])


@settings(deadline=None)
@given(st.lists(st.tuples(VERDICT, VERDICT), min_size=1, max_size=30))
def test_kappa_is_cohens(verdicts: list[tuple[Verdict, Verdict]]) -> None:
    """Against the formula, by counting."""
    ours, theirs = [one for one, _ in verdicts], [other for _, other in verdicts]
    (found,) = agreements(pairs(ours, theirs))
    n = len(verdicts)
    observed = sum(one == other for one, other in verdicts) / n
    chance = sum(ours.count(each) * theirs.count(each) for each in ("accept", "correct", "reject")) / n**2
    assert (found.n, found.same) == (n, observed)
    if chance == 1:
        assert found.kappa is None
    else:
        assert found.kappa == pytest.approx((observed - chance) / (1 - chance))


def test_every_pair_on_what_both_have_judged() -> None:
    judged = [*pairs(["accept", "reject"], ["accept", "accept"]), {"c": said("c", "accept")}]
    judged[0]["c"] = said("c", "accept")
    found = {(each.first, each.second): (each.n, each.kappa) for each in agreements(judged)}
    assert found == {("a", "b"): (2, 0.0), ("a", "c"): (1, None), ("b", "c"): (1, None)}
