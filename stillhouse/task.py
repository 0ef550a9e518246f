"""The task: how a record becomes a prompt, what an answer may look like, and when it is right.

One place for capture, evaluation and serving, so that the student is asked just as the teacher was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from stillhouse.errors import UserError
from stillhouse.recipe import Recipe, Task
from stillhouse.run import digest

NEUTRAL_SAMPLING: dict[str, Any] = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
"""Said aloud in requests to a vLLM server, which would else take a model's own `generation_config`."""


@dataclass(frozen=True)
class Prompt:
    """What a model is asked: plain `text`, or chat `messages` for the model's own template; one of them is None."""

    text: str | None = None
    messages: tuple[dict[str, Any], ...] | None = None


def render(task: Task, fields: Mapping[str, str]) -> Prompt:
    """The prompt of one record; `fields` holds the columns that the template names.

    Raises:
        UserError: a column is missing.
    """
    missing = [name for name in task.fields() if name not in fields]
    if missing:
        raise UserError(
            f"the prompt needs the column {missing[0]!r}; the data has {', '.join(sorted(fields)) or 'none'}"
        )
    if task.prompt is not None:
        return Prompt(text=task.prompt.format_map(fields))
    return Prompt(
        messages=tuple({"role": m.role, "content": m.content.format_map(fields)} for m in task.messages or ())
    )


def prompt_from_chat(task: Task, messages: Sequence[Mapping[str, Any]]) -> Prompt:
    """The prompt for a client's chat messages.

    A chat task passes them as they are. A plain-prompt task takes exactly one user message, whose text is put where the
    template's only column stands.

    Raises:
        UserError: the messages cannot be rendered by a plain prompt.
    """
    if task.prompt is None:
        return Prompt(messages=tuple(dict(message) for message in messages))
    fields = task.fields()
    if len(fields) > 1:
        raise UserError(
            f"this model's prompt is made from {len(fields)} fields ({', '.join(fields)}), which one chat message"
            " cannot fill: send the whole prompt to /v1/completions"
        )
    if len(messages) != 1 or messages[0].get("role") != "user":
        raise UserError(
            "this model has a fixed prompt: send exactly one message, of the role user, with the text alone"
        )
    content = messages[0].get("content")
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, Mapping) and part.get("type") == "text"]
        told = [part for part in parts if isinstance(part, str)]
        content = "".join(told) if len(told) == len(content) else None
    if not isinstance(content, str):
        raise UserError("this model reads text alone: send the message's content as a string")
    return render(task, {fields[0]: content})


def chat_messages(prompt: Prompt) -> list[dict[str, Any]]:
    """The prompt for a model that takes chats alone: a plain text is one user message."""
    if prompt.text is not None:
        return [{"role": "user", "content": prompt.text}]
    return [dict(message) for message in prompt.messages or ()]


def told(prompt: Prompt) -> str:
    """The prompt as a person reads it; messages with their roles."""
    if prompt.text is not None:
        return prompt.text
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in prompt.messages or ())


def token_ids(prompt: Prompt, tokenizer: Any) -> list[int]:
    """The prompt's token ids: plain text as the tokenizer encodes it, messages through its chat template.

    Raises:
        UserError: the model has no chat template, or it refuses the messages.
    """
    if prompt.text is not None:
        ids: list[int] = tokenizer(prompt.text)["input_ids"]
        return ids
    if not tokenizer.chat_template:
        raise UserError("the model has no chat template: give `task.prompt` instead of `task.messages`")
    from jinja2 import TemplateError

    messages = list(prompt.messages or ())
    try:
        rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        raise UserError(f"the model's chat template refuses the messages: {error}") from error
    # The template writes the special tokens itself.
    return list(tokenizer(rendered, add_special_tokens=False)["input_ids"])


def sampling(task: Task) -> dict[str, Any]:
    """How the task's completions are drawn, in the names of the OpenAI and vLLM APIs; neutral settings are left out."""
    settings: dict[str, Any] = {"temperature": task.temperature, "max_tokens": task.max_tokens}
    if task.sampling.top_p < 1:
        settings["top_p"] = task.sampling.top_p
    if task.sampling.stop:
        settings["stop"] = list(task.sampling.stop)
    return settings


def structured_outputs(task: Task) -> dict[str, Any] | None:
    """What vLLM's `structured_outputs` holds the completion to; None for free text."""
    if task.kind == "choices":
        return {"choice": list(task.choices)}
    if task.kind == "json":
        return {"json": task.json_schema}
    return None


def decoding(task: Task, tokenizer: Any) -> dict[str, Any]:
    """Everything that decides how a completion is drawn, in the names of vLLM's requests; teacher and student alike.

    A choice can be spelled by many token sequences, and a model spreads its probability over them. Only the tokens of
    the choices' own spelling are allowed beside the end of the sequence, so that the probability of an answer is that
    of one sequence.
    """
    settings = sampling(task)
    constraint = structured_outputs(task)
    if constraint:
        settings["structured_outputs"] = constraint
    if task.kind == "choices":
        spelled = {
            token for choice in task.choices for token in tokenizer(choice, add_special_tokens=False)["input_ids"]
        }
        settings["allowed_token_ids"] = sorted({*spelled, tokenizer.eos_token_id})
    return settings


def logprobs_mode(task: Task) -> Literal["raw_logprobs", "processed_logprobs"]:
    """Which logprobs vLLM reports: the model's raw ones, but for `choices` those after `allowed_token_ids` was applied.

    They are normalised over what can be answered. Choices are decoded greedily, so no temperature is in them.
    """
    return "processed_logprobs" if task.kind == "choices" else "raw_logprobs"


def answer(task: Task, completion: str) -> str | None:
    """The answer in a completion, in the form that is compared; None if the completion breaks the task's contract.

    `choices`: the choice without surrounding space; `json`: the object as canonical JSON, if it satisfies the schema;
    `text`: the text without surrounding space, if there is any.
    """
    text = completion.strip()
    if task.kind == "choices":
        return text if text in {choice.strip() for choice in task.choices} else None
    if task.kind == "json":
        import jsonschema

        try:
            value = json.loads(text, parse_constant=_refuse)
            jsonschema.validate(value, task.json_schema or {})
        except (ValueError, RecursionError, jsonschema.ValidationError):  # a model can open brackets without end
            return None
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text or None


def _refuse(constant: str) -> None:
    """`NaN` and `Infinity`, which Python reads though they are not JSON."""
    raise ValueError(constant)


def gold_answer(recipe: Recipe, value: str | None) -> str | None:
    """A label as the answer it stands for, through `data.labels`; None where there is no label.

    Raises:
        UserError: the label is none of the task's choices, or breaks its JSON schema.
    """
    if value is None or not value.strip():
        return None
    mapped = recipe.data.labels.get(value, value)
    found = answer(recipe.task, mapped)
    if found is None:
        if recipe.task.kind == "json":
            raise UserError(f"the label {value!r} is not JSON that satisfies `task.json_schema`")
        allowed = ", ".join(repr(choice.strip()) for choice in recipe.task.choices)
        raise UserError(f"the label {value!r} is none of the choices {allowed}: map it in `data.labels`")
    return found


def completion_token_ids(text: str, tokenizer: Any, *, ended: bool) -> list[int]:
    """The tokens of a completion that is a text, with the end of the sequence where it `ended` by itself."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return [*ids, tokenizer.eos_token_id] if ended else list(ids)


def gold_completion(task: Task, gold: str) -> str:
    """The completion that a gold answer stands for: a choice with the space that the task gives it, else the answer."""
    if task.kind == "choices":
        return next(choice for choice in task.choices if choice.strip() == gold)
    return gold


def task_hash(task: Task) -> str:
    """sha256 of the task as the models see it."""
    return digest(task.model_dump(mode="json"))
