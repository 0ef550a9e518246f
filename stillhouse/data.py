"""Reading the user's data: JSONL, CSV or Parquet; from disk, S3 or an installed package."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from stillhouse.errors import UserError
from stillhouse.recipe import Recipe
from stillhouse.resources import SCHEME, package_file
from stillhouse.run import digest
from stillhouse.storage import open_storage
from stillhouse.task import gold_answer

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Record:
    """One row of the data: its id, its place, the columns that the prompt needs, and its gold answer."""

    id: str
    index: int
    fields: dict[str, str]
    gold: str | None


def source_bytes(path: str) -> bytes:
    """The raw content of `data.path`. Raises `UserError` where there is none."""
    if path.startswith("s3://"):
        folder, _, key = path.rpartition("/")
        try:
            return open_storage(folder).read(key)
        except KeyError as error:
            raise UserError(f"data.path: {path} does not exist") from error
    local = package_file(path) if path.startswith(SCHEME) else Path(path)
    try:
        return local.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"data.path: {path} does not exist") from error
    except OSError as error:
        raise UserError(f"data.path: {path} cannot be read: {error.strerror}") from error


def data_hash(recipe: Recipe) -> str:
    """sha256 of the data's content and of what the recipe makes of it; the path does not matter."""
    content = hashlib.sha256(source_bytes(recipe.data.path)).hexdigest()
    return digest([content, recipe.data.model_dump(mode="json", exclude={"path"})])


def load_records(recipe: Recipe) -> list[Record]:
    """All records that the recipe asks for, in the data's order.

    A row's id is its `id` column, or the hash of its prompt columns and of how often they came before.

    Raises:
        UserError: no rows, a malformed row (with its number), a missing column, a label outside the choices, an id
            twice.
    """
    data, path = recipe.data, recipe.data.path
    columns = recipe.task.fields()
    needed = list(dict.fromkeys([*columns, *data.where, *([data.label] if data.label else [])]))
    records: list[Record] = []
    seen: dict[str, str] = {}
    repeats: Counter[str] = Counter()
    for place, row in _rows(path, source_bytes(path)):
        for name in needed:
            if name not in row:
                raise UserError(f"data.path: {path}, {place} has no column {name!r}; it has {', '.join(map(str, row))}")
            if row[name] is None and name != data.label:
                raise UserError(f"data.path: {path}, {place} has nothing in the column {name!r}")
        if any(_text(row[name]) != value for name, value in data.where.items()):
            continue
        fields = {name: _text(row[name]) for name in columns}
        if not any(value.strip() for value in fields.values()):
            raise UserError(f"data.path: {path}, {place} has nothing in the column {' or '.join(map(repr, columns))}")
        label = row[data.label] if data.label else None
        try:
            gold = gold_answer(recipe, None if label is None else _text(label))
        except UserError as error:
            raise UserError(f"data.path: {path}, {place}: {error}") from error
        if row.get("id") is not None:
            identity = _text(row["id"])
            if identity in seen:
                raise UserError(f"data.path: {path}, {seen[identity]} and {place} have the same id {identity!r}")
            seen[identity] = place
        else:
            content = digest(fields)
            repeats[content] += 1
            identity = digest([content, repeats[content]])[:16]
        records.append(Record(identity, len(records), fields, gold))
    if not records:
        kept = f" where {data.where}" if data.where else ""
        raise UserError(f"data.path: {path} holds no rows{kept}")
    if data.limit is not None and data.limit < len(records):
        chosen = random.Random(recipe.seed).sample(range(len(records)), data.limit)
        records = [Record(r.id, i, r.fields, r.gold) for i, r in enumerate(records[j] for j in sorted(chosen))]
    return records


def _text(value: Any) -> str:
    """A cell as text: numbers as they print, and booleans, lists and objects as JSON."""
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, bool | list | dict) else str(value)


def _rows(path: str, content: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    """(`line N` of a text or `row N` of a table, from 1; columns)."""
    suffix = PurePosixPath(path).suffix.lower()
    if suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        try:
            table = pyarrow.parquet.read_table(pyarrow.BufferReader(content))
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"data.path: {path} is not Parquet: {str(error).splitlines()[0]}") from error
        yield from ((f"row {number}", row) for number, row in enumerate(table.to_pylist(), 1))
        return
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"data.path: {path}, line {line} is not UTF-8") from error
    if suffix == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""))
        try:
            for row in reader:
                if None in row or None in row.values():
                    than = "more" if None in row else "fewer"
                    raise UserError(f"data.path: {path}, line {reader.line_num} has {than} columns than the header")
                yield f"line {reader.line_num}", row
        except csv.Error as error:
            raise UserError(f"data.path: {path}, line {reader.line_num} is not CSV: {error}") from error
    elif suffix in {".jsonl", ".ndjson", ".json"}:
        for number, raw in enumerate(text.split("\n"), 1):
            if not raw.strip():
                continue
            try:
                value = json.loads(raw)
            except json.JSONDecodeError as error:
                raise UserError(f"data.path: {path}, line {number} is not JSON: {error.msg}") from error
            if not isinstance(value, dict):
                raise UserError(f"data.path: {path}, line {number} is not a JSON object")
            if "\\u" in raw and _SURROGATE.search(json.dumps(value, ensure_ascii=False)):
                raise UserError(f"data.path: {path}, line {number} holds half of a character: a lone surrogate")
            yield f"line {number}", value
    else:
        raise UserError(f"data.path: {path} must end in .jsonl, .csv or .parquet")
