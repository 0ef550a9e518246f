"""The records of a recipe: the user's rows, checked, with ids that stay theirs through everything."""

from __future__ import annotations

import json
import random
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stillhouse.errors import UserError
from stillhouse.recipe import Recipe
from stillhouse.run import digest
from stillhouse.source import Source, content_sha256
from stillhouse.task import gold_answer, gold_completion

FIRST_TEACHER = "teacher"
"""What the first teacher of an ensemble is called; the only one, where there is no ensemble."""

REVIEWER = "human review"
"""Who wrote a completion that a reviewer put in the teacher's place; no teacher's name has a space."""


@dataclass(frozen=True)
class Record:
    """One row of the data.

    Attributes:
        id: the row's `id` column, or a hash of its prompt columns and of how often they came before.
        index: its place among the records, from 0.
        fields: the columns that the prompt needs.
        gold: its gold answer, if there is one.
        completion: a completion to score, if the recipe asks for that.
        teacher: which teacher of an ensemble answers it; None: all of them.
    """

    id: str
    index: int
    fields: dict[str, str]
    gold: str | None
    completion: str | None = None
    teacher: str | None = None


def data_hash(recipe: Recipe) -> str:
    """sha256 of the data's content and of what the recipe makes of it; the path does not matter."""
    return digest([content_sha256(recipe.data.path), recipe.data.model_dump(mode="json", exclude={"path"})])


class Records:
    """All records that a recipe asks for, in the data's order.

    The file is read once to check every row, and again each time that the records are asked for; eight bytes a row
    are kept in memory.

    Raises:
        UserError: no rows, a malformed row (with its place), a missing column, a label outside the choices, an id
            twice.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._source = Source(recipe.data.path)
        keys = array("Q")
        given = False
        for _, record, row_id in self._drafts():
            given = given or row_id is not None
            keys.append(_key(record.id))
        if not keys:
            kept = f" where {recipe.data.where}" if recipe.data.where else ""
            raise UserError(f"data.path: {recipe.data.path} holds no rows{kept}")
        ordered = np.sort(np.frombuffer(keys, dtype=np.uint64))
        self._repeated = frozenset(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
        if self._repeated and given:
            self._require_unique_ids()
        self._chosen: list[int] | None = None
        limit, rows = recipe.data.limit, len(keys)
        if limit is not None and limit < rows:
            self._chosen = sorted(random.Random(recipe.seed).sample(range(rows), limit))
        self._count = rows if self._chosen is None else len(self._chosen)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Record]:
        chosen = iter(self._chosen) if self._chosen is not None else None
        wanted = next(chosen) if chosen is not None else None
        repeats: Counter[str] = Counter()
        index = 0
        for row, (_, record, row_id) in enumerate(self._drafts()):
            identity = record.id
            if row_id is None:
                count = 1
                if _key(identity) in self._repeated:
                    repeats[identity] += 1
                    count = repeats[identity]
                identity = digest([identity, count])[:16]
            if chosen is not None:
                if row != wanted:
                    continue
                wanted = next(chosen, None)
            yield replace(record, id=identity, index=index)
            index += 1
            if chosen is not None and wanted is None:
                return

    def _drafts(self) -> Iterator[tuple[str, Record, str | None]]:
        """(place, record, its id column), for every row that is kept; the record's id is that column or the hash of
        its prompt columns, which other rows may share."""
        recipe, data, path = self._recipe, self._recipe.data, self._recipe.data.path
        columns = recipe.task.fields()
        optional = {name for name in (data.label, data.completion) if name}
        routed = {name for member in (recipe.ensemble.members if recipe.ensemble else ()) for name in member.when}
        needed = list(dict.fromkeys([*columns, *data.where, *sorted(routed), *sorted(optional)]))
        for place, row in self._source.rows():
            where = f"data.path: {path}, {place}"
            for name in needed:
                if name not in row:
                    raise UserError(f"{where} has no column {name!r}; it has {', '.join(map(str, row))}")
                if row[name] is None and name not in optional:
                    raise UserError(f"{where} has nothing in the column {name!r}")
            if not _meets(row, data.where):
                continue
            fields = {name: _text(row[name]) for name in columns}
            if not any(value.strip() for value in fields.values()):
                raise UserError(f"{where} has nothing in the column {' or '.join(map(repr, columns))}")
            label = row[data.label] if data.label else None
            try:
                gold = gold_answer(recipe, None if label is None else _text(label))
            except UserError as error:
                raise UserError(f"{where}: {error}") from error
            row_id = _text(row["id"]) if row.get("id") is not None else None
            record = Record(
                id=row_id if row_id is not None else digest(fields),
                index=0,
                fields=fields,
                gold=gold,
                completion=self._completion(row, gold),
                teacher=_route(recipe, row),
            )
            yield place, record, row_id

    def _completion(self, row: Mapping[str, Any], gold: str | None) -> str | None:
        """The completion that the recipe wants scored."""
        if self._recipe.capture.completions == "gold":
            return None if gold is None else gold_completion(self._recipe.task, gold)
        column = self._recipe.data.completion
        return None if column is None or row[column] is None else _text(row[column])

    def _require_unique_ids(self) -> None:
        seen: dict[str, str] = {}
        for place, _, row_id in self._drafts():
            if row_id is None or _key(row_id) not in self._repeated:
                continue
            if row_id in seen:
                raise UserError(
                    f"data.path: {self._recipe.data.path}, {seen[row_id]} and {place} have the same id {row_id!r}"
                )
            seen[row_id] = place


def _key(identity: str) -> int:
    """64 bits that tell ids apart but for rare chance, which the text itself then settles."""
    return int(digest(identity)[:16], 16)


def _meets(row: Mapping[str, Any], values: Mapping[str, str]) -> bool:
    return all(_text(row[name]) == value for name, value in values.items())


def _route(recipe: Recipe, row: Mapping[str, Any]) -> str | None:
    """Which teacher answers the row, where the recipe routes; None where all of them do."""
    if recipe.ensemble is None or recipe.ensemble.combine != "route":
        return None
    return next((member.name for member in recipe.ensemble.members if _meets(row, member.when)), FIRST_TEACHER)


def _text(value: Any) -> str:
    """A cell as text: numbers as they print, and booleans, lists and objects as JSON."""
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, bool | list | dict) else str(value)
