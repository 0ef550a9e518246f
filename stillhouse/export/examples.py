"""What is exported of a record: its prompt, and the answer to learn."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from stillhouse.errors import UserError
from stillhouse.recipe import Recipe
from stillhouse.run import Run
from stillhouse.task import Prompt, chat_messages, gold_completion, render

On = Literal["teacher", "gold"]

_ROWS = 256
"""Rows that are held in memory at once."""


@dataclass(frozen=True)
class Example:
    """One prompt with the answer to it.

    Attributes:
        id: the record's.
        prompt: as the task renders it.
        completion: what follows a plain prompt, with the space that it begins with.
        tokens: of both, in the tokenizer of the run; other models count others.
    """

    id: str
    prompt: Prompt
    completion: str
    tokens: int

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The prompt for models that take chats alone."""
        return chat_messages(self.prompt)

    @property
    def answer(self) -> str:
        """The completion as an assistant's whole message."""
        return self.completion.strip()


class Examples:
    """The examples of a split, in the dataset's order; a few hundred are in memory at once.

    Attributes:
        left_out: how many records have no example yet, by reason: `truncated` completions, which would teach an end
            where the teacher made none; `empty` ones; and those `without gold`.

    Args:
        on: whose answers: the teacher's, or the gold ones of the records that have one.
    """

    def __init__(self, recipe: Recipe, run: Run, split: str, on: On) -> None:
        self._recipe, self._run, self._split, self._on = recipe, run, split, on
        self.left_out: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Example]:
        """Raises `UserError` for a split that is not there, or damaged."""
        self.left_out.clear()
        for row in self._rows():
            completion, reason = self._completion(row)
            if reason:
                self.left_out[reason] += 1
            else:
                prompt = render(self._recipe.task, json.loads(row["fields"]))
                tokens = len(row["prompt_token_ids"]) + len(row["completion_token_ids"])
                yield Example(row["id"], prompt, completion, tokens)

    def _completion(self, row: dict[str, Any]) -> tuple[str, str]:
        """The completion, or why there is none."""
        if self._on == "gold":
            if row["gold"] is None:
                return "", "without gold"
            completion = gold_completion(self._recipe.task, row["gold"])
        else:
            completion = row["completion"]
            if row["finish_reason"] != "stop":
                return "", "truncated"
        return completion, "" if completion.strip() else "empty"

    def _rows(self) -> Iterator[dict[str, Any]]:
        import pyarrow
        import pyarrow.parquet

        columns = ["id", "fields", "gold", "completion", "finish_reason", "prompt_token_ids", "completion_token_ids"]
        path = self._run.fetch("dataset") / f"{self._split}.parquet"
        name = f"{self._run.uri}/dataset/{path.name}"
        if not path.is_file():
            raise UserError(f"{name} does not exist: the dataset has train, validation, calibration and test")
        try:
            with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
                for batch in file.iter_batches(batch_size=_ROWS, columns=columns):
                    yield from batch.to_pylist()
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{name} is damaged ({str(error).splitlines()[0]}): curate again") from error
