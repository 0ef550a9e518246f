"""Prompts, contracts and grading: the student must be asked just as the teacher was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stillhouse.errors import UserError
from stillhouse.recipe import Recipe, Task
from stillhouse.task import (
    Prompt,
    answer,
    decoding,
    gold_answer,
    prompt_from_chat,
    render,
    sampling,
    structured_outputs,
    task_hash,
    token_ids,
)

MakeRecipe = Callable[..., Recipe]

TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "<s> {{ m['content'] }} <e> {% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
)
PLAIN = Task(kind="text", prompt="Title: {title}\nText: {text} {text}\n{{}}")
ONE_FIELD = Task(kind="choices", prompt="Review: {text}\nSentiment:", choices=(" positive", " negative"))
CHAT = Task.model_validate(
    {
        "kind": "text",
        "messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "{text}?"}],
    }
)
SCHEMA = {"type": "object", "properties": {"age": {"type": "number"}}, "required": ["age"]}
JSON = Task(kind="json", prompt="{text}", json_schema=SCHEMA)


def test_plain_prompt() -> None:
    assert render(PLAIN, {"text": "a {b}", "title": "T", "more": ""}) == Prompt(text="Title: T\nText: a {b} a {b}\n{}")


def test_chat_prompt() -> None:
    assert render(CHAT, {"text": "why"}) == Prompt(
        messages=({"role": "system", "content": "Be short."}, {"role": "user", "content": "why?"})
    )


def test_a_missing_column_is_named() -> None:
    with pytest.raises(UserError, match="the prompt needs the column 'title'; the data has label, text"):
        render(PLAIN, {"text": "a", "label": "b"})


def test_a_clients_chat_fills_the_only_field() -> None:
    asked = prompt_from_chat(ONE_FIELD, [{"role": "user", "content": "good {x}"}])
    assert asked == render(ONE_FIELD, {"text": "good {x}"})
    parts = [{"type": "text", "text": "good "}, {"type": "text", "text": "{x}"}]
    assert prompt_from_chat(ONE_FIELD, [{"role": "user", "content": parts}]) == asked


def test_a_chat_task_passes_messages_as_they_are() -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "name": "x"}]
    assert prompt_from_chat(CHAT, messages).messages == tuple(messages)


@pytest.mark.parametrize(
    ("task", "messages", "told"),
    [
        (PLAIN, [{"role": "user", "content": "a"}], "2 fields \\(title, text\\)"),
        (ONE_FIELD, [], "send exactly one message"),
        (ONE_FIELD, [{"role": "system", "content": "a"}], "send exactly one message"),
        (ONE_FIELD, [{"role": "user", "content": "a"}] * 2, "send exactly one message"),
        (ONE_FIELD, [{"role": "user"}], "reads text alone"),
        (ONE_FIELD, [{"role": "user", "content": None}], "reads text alone"),
        (ONE_FIELD, [{"role": "user", "content": [{"type": "text"}]}], "reads text alone"),
        (
            ONE_FIELD,
            [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}],
            "reads text alone",
        ),
    ],
)
def test_a_clients_chat_that_cannot_be_asked(task: Task, messages: list[dict[str, Any]], told: str) -> None:
    with pytest.raises(UserError, match=told):
        prompt_from_chat(task, messages)


@pytest.mark.parametrize(
    ("task", "completion", "expected"),
    [
        (ONE_FIELD, " positive", "positive"),
        (ONE_FIELD, "negative\n", "negative"),
        (ONE_FIELD, " Positive", None),
        (ONE_FIELD, " positive negative", None),
        (ONE_FIELD, "", None),
        (JSON, ' {"b": "é", "age": 1.0}', '{"age":1.0,"b":"é"}'),
        (JSON, '{"age": "old"}', None),
        (JSON, '{"age": 1', None),
        (JSON, '{"age": NaN}', None),
        (JSON, "[" * 100_000, None),
        (CHAT, " because \n", "because"),
        (CHAT, " \n", None),
    ],
)
def test_answer(task: Task, completion: str, expected: str | None) -> None:
    assert answer(task, completion) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, None), ("", None), ("0", "negative"), ("positive", "positive"), (" negative", "negative")],
)
def test_gold_answer(make_recipe: MakeRecipe, value: str | None, expected: str | None) -> None:
    assert gold_answer(make_recipe({"data.labels": {"0": "negative"}}), value) == expected


def test_gold_answer_outside_the_choices(make_recipe: MakeRecipe) -> None:
    with pytest.raises(UserError, match=r"the label '2' is none of the choices 'positive', 'negative'"):
        gold_answer(make_recipe({"data.labels": {"0": "negative"}}), "2")


def test_structured_outputs() -> None:
    assert structured_outputs(ONE_FIELD) == {"choice": [" positive", " negative"]}
    assert structured_outputs(JSON) == {"json": SCHEMA}
    assert structured_outputs(CHAT) is None


def test_completions_are_drawn_as_the_task_says() -> None:
    assert sampling(ONE_FIELD) == {"temperature": 0.0, "max_tokens": 64}
    assert sampling(JSON)["temperature"] == 0
    assert sampling(CHAT) == {"temperature": 1.0, "max_tokens": 64}
    told = {"temperature": 0.5, "top_p": 0.9, "stop": ["\n"]}
    assert sampling(Task.model_validate({**CHAT.model_dump(), "sampling": told})) == {**told, "max_tokens": 64}


def test_choices_are_decoded_over_their_own_tokens(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer("good positive negative")
    assert decoding(ONE_FIELD, tokenizer)["allowed_token_ids"] == [0, 3, 4]
    assert "allowed_token_ids" not in decoding(JSON, tokenizer)


def test_plain_text_is_encoded_as_the_tokenizer_does(make_tokenizer: Callable[..., Any]) -> None:
    assert token_ids(Prompt(text="good bad good"), make_tokenizer("good bad")) == [2, 3, 2]


def test_chat_ids_are_those_of_the_chat_template(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer("good bad < > s e a", template=TEMPLATE)
    messages = ({"role": "user", "content": "good"}, {"role": "assistant", "content": "bad"})
    expected = tokenizer.apply_chat_template(list(messages), tokenize=True, add_generation_prompt=True)["input_ids"]
    assert token_ids(Prompt(messages=messages), tokenizer) == expected


def test_special_tokens_are_not_added_twice(make_tokenizer: Callable[..., Any]) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = make_tokenizer("good", template="<eos> {{ messages[0]['content'] }}")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<eos> $A", special_tokens=[("<eos>", 0)])
    messages = ({"role": "user", "content": "good"},)
    expected = tokenizer.apply_chat_template(list(messages), tokenize=True)["input_ids"]
    assert token_ids(Prompt(messages=messages), tokenizer) == expected == [0, 2]
    assert token_ids(Prompt(text="good"), tokenizer) == [0, 2]


def test_a_model_without_a_chat_template(make_tokenizer: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match=r"no chat template: give `task\.prompt` instead"):
        token_ids(render(CHAT, {"text": "why"}), make_tokenizer("why"))


def test_a_chat_template_that_refuses(make_tokenizer: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="refuses the messages: no system role"):
        token_ids(render(CHAT, {"text": "why"}), make_tokenizer("why", template=TEMPLATE))


def test_task_hash_changes_with_what_models_see() -> None:
    assert task_hash(ONE_FIELD) == task_hash(ONE_FIELD.model_copy())
    assert task_hash(ONE_FIELD) != task_hash(ONE_FIELD.model_copy(update={"max_tokens": 5}))
