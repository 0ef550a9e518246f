"""`stillhouse export`: the splits of a run's dataset as JSONL files of one format."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args
from uuid import uuid4

from stillhouse.errors import UserError
from stillhouse.export import openai_chat, sharegpt, trl
from stillhouse.export.axolotl import Axolotl
from stillhouse.export.examples import Example, Examples, On
from stillhouse.recipe import Recipe
from stillhouse.run import Run

Format = Literal["openai", "trl", "axolotl", "sharegpt"]
FORMATS: tuple[Format, ...] = get_args(Format)

_MOST_TOLD = 20
"""Problems that are told of a file."""


@dataclass(frozen=True)
class Exported:
    """One file that was written.

    Attributes:
        left_out: records without an example, by reason.
    """

    path: Path
    examples: int
    size: int
    sha256: str
    left_out: Counter[str]


def export(recipe: Recipe, run: Run, format: Format, folder: Path, *, splits: Sequence[str], on: On) -> list[Exported]:
    """Write FOLDER/SPLIT.jsonl for each split; whole or not at all, and the same bytes for the same dataset.

    Raises:
        UserError: there is no dataset or no such split, nothing to export, or the files would break the format's rules.
    """
    run.finished("dataset", "curate")
    if on == "gold" and recipe.data.label is None:
        raise UserError("there are no gold answers to export: the recipe has no `data.label`")
    line = _lines(format, recipe)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [_write(Examples(recipe, run, split, on), split, format, line, folder, recipe) for split in splits]
    except OSError as error:
        raise UserError(f"{folder} cannot be written to: {error.strerror or error}") from error


def _lines(format: Format, recipe: Recipe) -> Callable[[Example], dict[str, Any]]:
    if format == "axolotl":
        return Axolotl.of(recipe).line
    return {"openai": openai_chat.line, "trl": trl.line, "sharegpt": sharegpt.line}[format]


def _write(
    examples: Examples,
    split: str,
    format: Format,
    line: Callable[[Example], dict[str, Any]],
    folder: Path,
    recipe: Recipe,
) -> Exported:
    target = folder / f"{split}.jsonl"
    temporary = folder / f".tmp-{uuid4().hex}"
    count = size = 0
    sha256 = hashlib.sha256()
    problems: list[str] = []
    found = 0
    try:
        with temporary.open("xb") as file:
            for count, example in enumerate(examples, 1):
                content = line(example)
                if format == "openai":
                    for problem in _broken(content, example, recipe):
                        found += 1
                        problems += [f"line {count} (record {example.id}): {problem}"][: _MOST_TOLD - len(problems)]
                raw = json.dumps(content, ensure_ascii=False).encode() + b"\n"
                size += len(raw)
                sha256.update(raw)
                file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        whole = list(openai_chat.file_problems(split=split, examples=count, size=size)) if format == "openai" else []
        if not count:
            why = ", ".join(f"{n} {reason}" for reason, n in examples.left_out.items())
            raise UserError(f"the split {split} has nothing to export{f' ({why})' if why else ''}")
        if whole or problems:
            raise UserError(_told(target, [*whole, *problems], found + len(whole)))
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return Exported(target, count, size, sha256.hexdigest(), Counter(examples.left_out))


def _broken(content: dict[str, Any], example: Example, recipe: Recipe) -> Iterator[str]:
    student = recipe.student.openai
    most = student.max_example_tokens if student is not None else openai_chat.MOST_TOKENS
    return openai_chat.line_problems(content, tokens=example.tokens, most_tokens=most)


def _told(target: Path, problems: Sequence[str], found: int) -> str:
    count = "a problem" if found == 1 else f"{found} problems"
    more = f"\n  and {found - len(problems)} more" if found > len(problems) else ""
    return f"{target.name} would break OpenAI's rules, with {count}:" + "".join(f"\n  {p}" for p in problems) + more
