"""How captured records are stored: Parquet files that describe themselves."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow
import pyarrow.parquet

from stillhouse.data import Record
from stillhouse.errors import UserError

_METADATA_KEY = b"stillhouse"

RECORD_SCHEMA = pyarrow.schema(
    [
        ("id", pyarrow.string()),
        ("index", pyarrow.int64()),
        ("fields", pyarrow.string()),
        ("gold", pyarrow.string()),
        ("prompt_token_ids", pyarrow.list_(pyarrow.int32())),
        ("completion", pyarrow.string()),
        ("completion_token_ids", pyarrow.list_(pyarrow.int32())),
        ("token_logprobs", pyarrow.list_(pyarrow.float32())),
        ("finish_reason", pyarrow.string()),
        ("top_ids", pyarrow.list_(pyarrow.list_(pyarrow.int32()))),
        ("top_logprobs", pyarrow.list_(pyarrow.list_(pyarrow.float32()))),
    ]
)
"""One row a record. `fields` is the JSON object of the prompt's columns. `token_logprobs` [tokens] are the raw logprobs
of the sampled tokens; `top_ids` and `top_logprobs` [tokens, <= k] the most probable tokens in rank order, finite
entries only."""


@dataclass(frozen=True)
class Completion:
    """What an engine answered to one prompt.

    Attributes:
        prompt_token_ids: what was asked.
        text: the completion, without the end-of-sequence token.
        token_ids: [tokens], the end-of-sequence token included where the model wrote one.
        finish_reason: `stop`, or `length` if it was cut off.
        token_logprobs: [tokens], raw (temperature-free) logprob of each sampled token, in nats.
        top_ids: [tokens, <= k], in rank order.
        top_logprobs: [tokens, <= k], raw, in nats; under structured outputs normalised over the allowed tokens.
    """

    prompt_token_ids: list[int]
    text: str
    token_ids: list[int]
    finish_reason: str
    token_logprobs: list[float]
    top_ids: list[list[int]]
    top_logprobs: list[list[float]]


@dataclass(frozen=True)
class PartDescription:
    """What a Parquet part says of itself, in the file's own metadata."""

    made_from: str
    model: str
    tokenizer_hash: str
    template_hash: str
    engine: str
    mode: str
    k: int
    dtype: str


def to_row(record: Record, completion: Completion) -> dict[str, Any]:
    """The stored row of a record and its completion."""
    return {
        "id": record.id,
        "index": record.index,
        "fields": json.dumps(record.fields, ensure_ascii=False),
        "gold": record.gold,
        "prompt_token_ids": completion.prompt_token_ids,
        "completion": completion.text,
        "completion_token_ids": completion.token_ids,
        "token_logprobs": completion.token_logprobs,
        "finish_reason": completion.finish_reason,
        "top_ids": completion.top_ids,
        "top_logprobs": completion.top_logprobs,
    }


def write_part(rows: Sequence[dict[str, Any]], description: PartDescription) -> bytes:
    """The Parquet file of some rows."""
    table = pyarrow.Table.from_pylist(list(rows), schema=RECORD_SCHEMA)
    return write_table(table, asdict(description))


def write_table(table: pyarrow.Table, description: dict[str, Any]) -> bytes:
    """A table as a Parquet file that carries `description` in its metadata."""
    metadata = {
        **(table.schema.metadata or {}),
        _METADATA_KEY: json.dumps(description, sort_keys=True).encode(),
    }
    buffer = io.BytesIO()
    # A flipped bit in compressed numbers often decodes to other numbers; the checksums find it.
    pyarrow.parquet.write_table(
        table.replace_schema_metadata(metadata), buffer, compression="zstd", write_page_checksum=True
    )
    return buffer.getvalue()


def read_table(data: bytes, *, name: str) -> pyarrow.Table:
    """The table in a Parquet file; `name` says in errors which one. Raises `UserError` for a damaged file."""
    try:
        table = pyarrow.parquet.read_table(pyarrow.BufferReader(data), page_checksum_verification=True)
        # The footer has no checksum, and a name in it that is no text would fail wherever it is first looked at.
        _ = table.column_names
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{name} is damaged ({str(error).splitlines()[0]}): remove it to make it again") from error
    return table


def description_of(table: pyarrow.Table) -> dict[str, Any]:
    """What the file that `table` was read from says of itself; empty for a file that is not ours, or damaged there."""
    raw = (table.schema.metadata or {}).get(_METADATA_KEY, b"{}")
    try:
        return dict(json.loads(raw))
    except ValueError:
        return {}
