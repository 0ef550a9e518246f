"""`task`: what the models are asked, and what an answer may look like."""

from __future__ import annotations

import string
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from stillhouse.recipe.section import Section


class Message(Section):
    """One chat message of the task's template."""

    role: Literal["system", "user", "assistant"] = Field(description="Who speaks.")
    content: str = Field(min_length=1, description="The text, with `{column}` where a column of the data goes.")


class Sampling(Section):
    """How completions are drawn, by the teacher and by the student alike."""

    temperature: float | None = Field(
        default=None, ge=0, le=2, description="0 is greedy. Default: 0 for `choices` and `json`, 1 for `text`."
    )
    top_p: float = Field(default=1.0, gt=0, le=1, description="Draw from the most probable tokens of that mass.")
    stop: tuple[Annotated[str, StringConstraints(min_length=1)], ...] = Field(
        default=(), max_length=4, description="Texts that end a completion, and are not part of it."
    )


class Task(Section):
    """What the models are asked, and what an answer may look like."""

    kind: Literal["choices", "json", "text"] = Field(
        description="`choices`: one of a list; `json`: an object by a schema; `text`: free text."
    )
    prompt: str | None = Field(
        default=None,
        min_length=1,
        description="A plain prompt, with `{column}` where a column of the data goes. Excludes `messages`.",
    )
    messages: tuple[Message, ...] | None = Field(
        default=None,
        min_length=1,
        description="Chat messages, put through the model's chat template. Excludes `prompt`.",
    )
    choices: tuple[str, ...] = Field(
        default=(),
        description="For `choices`: the completions allowed, with the space that a plain prompt needs before them.",
    )
    json_schema: dict[str, Any] | None = Field(default=None, description="For `json`: the JSON schema of an answer.")
    max_tokens: int = Field(default=64, ge=1, le=32_768, description="Longest completion, in tokens.")
    sampling: Sampling = Field(default_factory=Sampling, description="How completions are drawn.")

    @property
    def temperature(self) -> float:
        """The temperature that completions are drawn at."""
        if self.sampling.temperature is not None:
            return self.sampling.temperature
        return 1.0 if self.kind == "text" else 0.0

    def problems(self) -> Iterator[str]:
        if self.kind == "choices":
            if self.temperature:
                yield "`sampling.temperature` must be 0 for `choices`: their logprobs are those that decoding used"
            answers = [choice.strip() for choice in self.choices]
            if len(answers) < 2:
                yield "`choices` needs at least two choices"
            elif len(set(answers)) < len(answers) or "" in answers:
                yield "`choices` must differ from each other, and none may be blank"
        elif self.choices:
            yield f"`choices` goes with `kind: choices`, not with `kind: {self.kind}`"
        if (self.kind == "json") != (self.json_schema is not None):
            yield "`json_schema` goes with `kind: json`, and `kind: json` needs it"
        elif self.json_schema is not None:
            yield from _schema_problems(self.json_schema)
        if (self.prompt is None) == (self.messages is None):
            yield "give either `prompt` (plain text) or `messages` (chat), one of them"
        else:
            yield from self._template_problems()

    def _template_problems(self) -> Iterator[str]:
        found = []
        for template in self.templates():
            try:
                parts = list(string.Formatter().parse(template))
            except ValueError as error:
                yield f"the template {template[:60]!r} is malformed: {error}"
                return
            found += [part for part in parts if part[1] is not None]
        if not found:
            yield "the template has no `{column}`, so that every prompt would be the same"
        for _, field, spec, conversion in found:
            if not (field or "").isidentifier() or spec or conversion:
                yield (
                    f"`{{{field}{f'!{conversion}' if conversion else ''}{f':{spec}' if spec else ''}}}` is not a plain"
                    " `{column}`; a brace that is meant is written twice"
                )

    def templates(self) -> list[str]:
        """The texts that hold `{column}` fields."""
        return [self.prompt] if self.prompt is not None else [m.content for m in self.messages or ()]

    def fields(self) -> list[str]:
        """The columns that the prompt is made from, in order of appearance."""
        names = [
            field
            for template in self.templates()
            for _, field, _, _ in string.Formatter().parse(template)
            if field is not None
        ]
        return list(dict.fromkeys(names))


def _schema_problems(schema: dict[str, Any]) -> Iterator[str]:
    import jsonschema

    try:
        jsonschema.validators.validator_for(schema).check_schema(schema)
    except jsonschema.SchemaError as error:
        yield f"`json_schema` is not a JSON schema: {error.message}"
