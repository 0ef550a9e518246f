"""Which captured records may teach."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from captured import row

from stillhouse.curation.filters import FILTERS, filter_rows
from stillhouse.curation.filters.always import always
from stillhouse.curation.rows import Drop, Row
from stillhouse.errors import UserError
from stillhouse.recipe import Filters, Recipe

MakeRecipe = Callable[..., Recipe]
TEXT = {"task.kind": "text", "task.choices": []}


@pytest.fixture
def reasons(make_recipe: MakeRecipe) -> Callable[..., list[str | None]]:
    """The reasons for which rows are dropped, by filters that the recipe names."""

    def find(filters: dict[str, Any], rows: list[Row], **changes: Any) -> list[str | None]:
        recipe = make_recipe({**TEXT, "curation.filters": filters, **changes})
        return [drop and drop.reason for drop in filter_rows(recipe, rows)]

    return find


@pytest.fixture
def details(make_recipe: MakeRecipe) -> Callable[..., list[str | None]]:
    def find(filters: dict[str, Any], rows: list[Row]) -> list[str | None]:
        recipe = make_recipe({**TEXT, "curation.filters": filters})
        return [drop and drop.detail for drop in filter_rows(recipe, rows)]

    return find


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"error": "timed out", "completion": None, "answer": None, "tokens": 0}, "failed"),
        ({"completion": "", "answer": None, "tokens": 0}, "empty"),
        # A teacher whose tokenizer is unknown tells no token ids.
        ({"tokens": 0}, None),
        # A truncated completion must not teach where a sequence ends, whatever it says.
        ({"finish_reason": "length"}, "truncated"),
        ({"answer": None}, "contract"),
    ],
)
def test_what_can_never_teach(changes: dict[str, Any], reason: str | None) -> None:
    completion = changes.pop("completion", "fine")
    (drop,) = always([row(completion=completion, **changes)])
    assert (drop and drop.reason) == reason


def test_the_recipe_names_every_filter_in_the_order_of_the_funnel() -> None:
    assert list(FILTERS) == list(Filters.model_fields)


def test_no_filter_of_the_recipe_is_on_by_default(reasons: Callable[..., list[str | None]]) -> None:
    assert reasons({}, [row(completion="I'm sorry, but I can't help with that. Shit! Write to a@example.com")]) == [
        None
    ]


def test_the_first_reason_counts_and_the_others_do_not_look(reasons: Callable[..., list[str | None]]) -> None:
    rows = [row("a", finish_reason="length"), row("b", "one two three"), row("c", "no")]
    filters = {"length": {"max": 2}, "patterns": {"any": {"regex": "."}}}
    assert reasons(filters, rows) == ["truncated", "length", "patterns: any"]
    # Without logprobs the filter of uncertainty would refuse.
    rows = [row("a", "one two three", logprobs=None), row("b", "yes")]
    assert reasons({"length": {"max": 2}, "uncertainty": {}}, rows) == ["length", None]


@pytest.mark.parametrize(
    ("section", "completion", "dropped"),
    [
        ({"max": 2}, " two words\n", None),
        ({"max": 1}, "two words", "2 words"),
        ({"min": 3}, "two words", "2 words"),
        ({"min": 2, "max": 2}, "two words", None),
        ({"unit": "characters", "max": 3}, " 四个汉字 ", "4 characters"),
        ({"unit": "characters", "max": 4}, " 四个汉字 ", None),
    ],
)
def test_length(
    details: Callable[..., list[str | None]], section: dict[str, Any], completion: str, dropped: str | None
) -> None:
    assert details({"length": section}, [row(completion=completion)]) == [dropped]


def test_refusals_in_texts_and_in_the_values_of_json(reasons: Callable[..., list[str | None]]) -> None:
    refusal = "I’m sorry, but I can’t help with that."
    rows = [
        row(completion=refusal),
        row(completion=f"They said: {'so it goes, ' * 30} {refusal}"),
        row(completion="Yes"),
    ]
    assert reasons({"refusals": True}, rows) == ["refusals", None, None]
    objects = [{"summary": refusal}, {"lines": ["none", refusal]}, {refusal: "none"}, {"summary": f"a\n{refusal}"}]
    rows = [row(completion=json.dumps(one), answer=json.dumps(one), is_json=True) for one in objects]
    assert reasons({"refusals": True}, rows) == ["refusals", "refusals", None, "refusals"]


def test_uncertainty_is_the_probability_of_the_whole_completion(reasons: Callable[..., list[str | None]]) -> None:
    half, quarter = [math.log(0.5)], [math.log(0.5), math.log(0.5)]
    rows = [row(logprobs=half), row(logprobs=quarter), row(logprobs=[-0.001] * 2000)]
    assert reasons({"uncertainty": {"min_confidence": 0.4}}, rows) == [None, "uncertainty", "uncertainty"]
    by_token = {"min_confidence": 0.4, "per_token": True}
    assert reasons({"uncertainty": by_token}, [*rows, row(logprobs=[-2.0, -0.1])]) == [None, None, None, "uncertainty"]


def test_a_capture_without_logprobs_is_refused(reasons: Callable[..., list[str | None]]) -> None:
    with pytest.raises(UserError, match="no logprobs of the completion of the record 'r7': capture them"):
        reasons({"uncertainty": {}}, [row("r1"), row("r7", logprobs=None)])


def test_consistency_takes_the_whole_record(reasons: Callable[..., list[str | None]]) -> None:
    rows = [row("a", agreement=0.6), row("b", agreement=0.5), row("b", "other", sample=1, agreement=0.5)]
    filters = {"consistency": {"min_agreement": 0.6}}
    assert reasons(filters, rows, **{"capture.n": 5}) == [None, "consistency", "consistency"]


GERMAN = "Der Film ist leider viel zu lang, aber die Schauspieler sind wirklich sehr gut."
ENGLISH = "The film is far too long, unfortunately, but the actors are really very good."


@pytest.mark.parametrize(
    ("section", "completion", "text", "dropped"),
    [
        ({"allowed": ["en"]}, GERMAN, ENGLISH, True),
        ({"allowed": ["en"]}, ENGLISH, GERMAN, False),
        ({"allowed": ["de", "en"]}, GERMAN, GERMAN, False),
        ({"allowed": ["en"], "look_in": "prompt"}, ENGLISH, GERMAN, True),
        ({"allowed": ["en"], "look_in": "both"}, ENGLISH, GERMAN, True),
        # Nobody is sure of a word or of numbers.
        ({"allowed": ["en"]}, "nein", ENGLISH, False),
        ({"allowed": ["de"]}, "12.50 / 2024-10-11", GERMAN, False),
        ({"allowed": ["de"]}, "👍", GERMAN, False),
    ],
)
def test_language(
    reasons: Callable[..., list[str | None]], section: dict[str, Any], completion: str, text: str, dropped: bool
) -> None:
    assert reasons({"language": section}, [row(completion=completion, text=text)]) == ["language" if dropped else None]


def test_languages_of_the_recipe_are_those_that_are_told_apart() -> None:
    from stillhouse.curation.filters.language import _identifier
    from stillhouse.recipe.curation import LANGUAGES

    assert {*_identifier().labels} - {"zxx"} == LANGUAGES


def test_profanity_and_pii_look_where_they_are_told(details: Callable[..., list[str | None]]) -> None:
    rows = [row(completion="a sh1t film"), row(completion="a film", text="write to jane@example.com")]
    assert details({"profanity": {}}, rows) == ["sh1t", None]
    assert details({"profanity": {"allow": ["shit"], "words": ["film"]}}, rows) == ["film", "film"]
    assert details({"pii": {}}, rows) == [None, None]
    assert details({"pii": {"look_in": "prompt"}}, rows) == [None, "EMAIL_ADDRESS"]


def test_what_json_escapes_is_found(details: Callable[..., list[str | None]]) -> None:
    written = '{"mail": "jane\\u0040example.com", "card": 4111111111111111, "ok": true}'
    answer = json.dumps(json.loads(written))
    assert details({"pii": {}}, [row(completion=written, answer=answer, is_json=True)]) == [
        "CREDIT_CARD, EMAIL_ADDRESS"
    ]


def test_patterns_count_by_name(details: Callable[..., list[str | None]], reasons: Any) -> None:
    filters = {
        "patterns": {
            "boilerplate": {"regex": "(?i)as an ai\\b"},
            "order": {"regex": r"#\d{4}", "look_in": "prompt"},
            "both": {"regex": "zz", "look_in": "both"},
        }
    }
    rows = [row(completion="As an AI, yes"), row(text="about #1234"), row(completion="#1234"), row(text="zzz"), row()]
    assert reasons(filters, rows) == ["patterns: boilerplate", "patterns: order", None, "patterns: both", None]
    assert details(filters, rows)[:2] == ["As an AI", "#1234"]


def test_a_pattern_that_never_ends_is_named(reasons: Callable[..., list[str | None]]) -> None:
    with pytest.raises(UserError, match=r"patterns\.loop: searching the record 'r0' takes more than 1 s"):
        reasons({"patterns": {"loop": {"regex": r"^(a|aa)+$"}}}, [row(completion="a" * 60 + "b")])


def write(tmp_path: Path, body: str) -> dict[str, Any]:
    path = tmp_path / "own.py"
    path.write_text(f"def keep(record):\n    {body}\n")
    return {"python": f"{path}:keep"}


def test_an_own_function_decides(reasons: Callable[..., list[str | None]], tmp_path: Path) -> None:
    filters = write(tmp_path, "return {'yes': True, 'no': False, 'old': ' too  old '}[record['completion']]")
    rows = [row(completion="yes"), row(completion="no"), row(completion="old")]
    assert reasons(filters, rows) == [None, "python", "python: too old"]


def test_what_an_own_function_is_given(reasons: Callable[..., list[str | None]], tmp_path: Path) -> None:
    filters = write(
        tmp_path,
        "assert record == {'id': 'r3', 'fields': {'text': 'why?'}, 'completion': ' fine', 'answer': 'fine',"
        " 'gold': 'good', 'confidence': None}; record['fields'].clear(); return True",
    )
    one = row("r3", " fine", answer="fine", gold="good", text="why?", logprobs=None)
    assert reasons(filters, [one]) == [None]
    assert one.fields == {"text": "why?"}


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("return 1 / 0", r"own.py:keep, called with the record 'r5', raised ZeroDivisionError: division by zero"),
        ("pass", "called with the record 'r5', returned None: return True, False, or a reason"),
        ("return ''", "returned '': return True"),
        ("return 'x' * 61", "gave the reason 'xxx.*: reasons are counted"),
    ],
)
def test_an_own_function_that_fails_names_the_record(
    reasons: Callable[..., list[str | None]], tmp_path: Path, body: str, told: str
) -> None:
    with pytest.raises(UserError, match=told) as caught:
        reasons(write(tmp_path, body), [row("r5")])
    assert "\n" not in str(caught.value)


def test_a_reason_for_every_record_is_no_reason(reasons: Callable[..., list[str | None]], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no more than 50"):
        reasons(write(tmp_path, "return record['id']"), [row(str(i)) for i in range(51)])


def test_a_drop_says_what_was_found(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe({**TEXT, "curation.filters": {"uncertainty": {}}})
    assert filter_rows(recipe, [row(logprobs=[math.log(0.1)])]) == [Drop("uncertainty", "0.1")]
