"""What the task's output contract asks of a student: how its choices are spelled, and how wide it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stillhouse.check.findings import Finding
from stillhouse.errors import UserError
from stillhouse.recipe import Task

MANY_CHOICES = 100
LONG_TEXT = 256
MANY_VALUES = 25
"""Choices, tokens of free text, and values of a JSON answer from which on a contract is called wide. Rules of thumb: a
small student stays close to its teacher on answers that are few and alike, and nothing published gives a number."""


def require_spellings(task: Task, tokenizer: Any) -> None:
    """Refuse choices that the tokenizer cannot tell apart, cannot write, or cannot write within `max_tokens`.

    Raises:
        UserError: it names the choice, and what would work.
    """
    if task.kind != "choices":
        return
    spelled: dict[tuple[int, ...], str] = {}
    for choice in task.choices:
        ids = spelling(choice, tokenizer)
        if not ids or tokenizer.unk_token_id in ids:
            raise UserError(f"task.choices: the tokenizer has no tokens for {choice!r}: give the choice another name")
        if (other := spelled.setdefault(ids, choice)) != choice:
            raise UserError(
                f"task.choices: {other!r} and {choice!r} are the same tokens, and no model can tell them apart: give"
                " one of them another name"
            )
    ids, longest = max(spelled.items(), key=lambda item: len(item[0]))
    needed = len(ids) + 1  # the end of the sequence; without it the answer counts as cut off
    if task.max_tokens < needed:
        raise UserError(
            f"task.max_tokens: {longest!r} takes {needed} tokens with the end of the sequence, and {task.max_tokens}"
            f" are allowed: set at least {needed}"
        )


def spelling(choice: str, tokenizer: Any) -> tuple[int, ...]:
    """The token ids that a choice is written with."""
    return tuple(tokenizer(choice, add_special_tokens=False)["input_ids"])


def spelling_findings(task: Task, tokenizer: Any) -> Iterator[Finding]:
    """Choices that begin another choice, and choices that the allowed tokens can write in more than one way."""
    if task.kind != "choices":
        return
    for choice in task.choices:
        longer = next((other for other in task.choices if other != choice and other.startswith(choice)), None)
        if longer is not None:
            yield Finding(
                name="prefix-choice",
                text=f"the choice {choice!r} begins the choice {longer!r}, so that its answer hangs on the end alone.",
                remedy="Name the choices so that none begins another.",
            )
            break
    ids = [spelling(choice, tokenizer) for choice in task.choices]
    pieces = {tokenizer.decode([token], clean_up_tokenization_spaces=False) for choice in ids for token in choice}
    for choice in task.choices:
        if (ways := tilings(choice, pieces)) > 1:
            yield Finding(
                name="ambiguous-choice",
                text=f"the choice {choice!r} can be written in {ways} ways with the tokens of all choices, and a model"
                " spreads its probability over them.",
                remedy="Name the choices so that they share no pieces of words, single common words at best.",
            )
            break


def tilings(text: str, pieces: set[str]) -> int:
    """In how many ways `text` is a row of `pieces`."""
    ways = [1] + [0] * len(text)
    for end in range(1, len(text) + 1):
        ways[end] = sum(ways[end - len(piece)] for piece in pieces if piece and text.endswith(piece, 0, end))
    return ways[-1]


def width_finding(task: Task) -> Finding | None:
    """`wide-output`, where the contract is so wide that a small student is unlikely to fill it as its teacher does."""
    narrower = "Ask for less: fixed choices, or a JSON object with few values, enumerated where they can be."
    if task.kind == "choices" and len(task.choices) > MANY_CHOICES:
        text = f"{len(task.choices)} choices are many: each needs examples of its own."
        return Finding(name="wide-output", text=text, remedy="Group the choices, or choose in two steps.")
    if task.kind == "text" and task.max_tokens > LONG_TEXT:
        text = f"free text of up to {task.max_tokens} tokens is a wide contract for a small student."
        return Finding(name="wide-output", text=text, remedy=narrower)
    if task.kind == "json":
        schema = task.json_schema or {}
        if (place := next(_open_places(schema, schema, "the answer"), None)) is not None:
            text = f"the JSON schema lets {place} hold anything."
            remedy = "Give every value a `type`, and every object its `properties` and `additionalProperties: false`."
            return Finding(name="wide-output", text=text, remedy=remedy)
        if (values := sum(1 for _ in _values(schema, schema))) > MANY_VALUES:
            text = f"the JSON schema holds {values} values, each of which the student can get wrong."
            return Finding(name="wide-output", text=text, remedy=narrower)
    return None


_COMBINED = ("anyOf", "oneOf", "allOf")
_DEEPEST = 12
"""Levels of a schema that are looked at: one that names itself has no end."""


def _open_places(schema: Any, root: Mapping[str, Any], place: str, depth: int = 0) -> Iterator[str]:
    """Where a schema says nothing of what may stand there, in its own words."""
    if depth > _DEEPEST or schema is False:
        return
    schema = _followed(schema, root)
    if schema is True or not isinstance(schema, Mapping) or not _says_what(schema):
        yield place
        return
    for part in _branches(schema):
        if part.keys() - {"required", "description", "title"}:
            yield from _open_places(part, root, place, depth + 1)
    kinds = _kinds(schema)
    if "object" in kinds or "properties" in schema:
        more = schema.get("additionalProperties", schema.get("unevaluatedProperties"))
        if not schema.get("properties") and more is not False:
            yield place
        elif more is True or (isinstance(more, Mapping) and not _says_what(_followed(more, root))):
            yield f"{place}, beside its properties,"
        for name, inner in (schema.get("properties") or {}).items():
            yield from _open_places(inner, root, f"`{name}`", depth + 1)
    if "array" in kinds:
        items = schema.get("items", True)
        if items is True and not schema.get("prefixItems"):
            yield f"the items of {place}"
        elif isinstance(items, Mapping):
            yield from _open_places(items, root, f"the items of {place}", depth + 1)


def _values(schema: Any, root: Mapping[str, Any], depth: int = 0) -> Iterator[None]:
    """One for each value that is neither an object nor a list."""
    schema = _followed(schema, root)
    if depth > _DEEPEST or not isinstance(schema, Mapping):
        return
    inner: list[Any] = [*(schema.get("properties") or {}).values(), *_branches(schema), *schema.get("prefixItems", [])]
    if isinstance(schema.get("items"), Mapping):
        inner.append(schema["items"])
    if not inner:
        yield None
    for part in inner:
        yield from _values(part, root, depth + 1)


def _says_what(schema: Any) -> bool:
    known = ("type", "enum", "const", "properties", "items", "$ref", "pattern", "format", *_COMBINED)
    return isinstance(schema, Mapping) and any(key in schema for key in known)


def _followed(schema: Any, root: Mapping[str, Any]) -> Any:
    """What a local `$ref` points to; the schema itself where it points elsewhere."""
    for _ in range(_DEEPEST):
        if not isinstance(schema, Mapping) or not str(schema.get("$ref", "")).startswith("#/"):
            return schema
        target: Any = root
        for part in schema["$ref"][2:].split("/"):
            target = target.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(target, Mapping) else None
        if target is None:
            return schema
        schema = target
    return schema


def _branches(schema: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [part for key in _COMBINED for part in schema.get(key, []) if isinstance(part, Mapping)]


def _kinds(schema: Mapping[str, Any]) -> Sequence[str]:
    kind = schema.get("type", ())
    return [kind] if isinstance(kind, str) else list(kind)
