"""How captured records are stored: Parquet files that describe themselves."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pyarrow
import pyarrow.parquet

from stillhouse.data import Record
from stillhouse.errors import UserError
from stillhouse.signal.columns import ENCODING, SIGNAL_FIELDS, signal_columns, signals
from stillhouse.signal.sparse import SparseSignal

__all__ = [
    "RECORD_SCHEMA",
    "Completion",
    "PartDescription",
    "description_of",
    "failed_row",
    "read_table",
    "signals",
    "to_row",
    "to_table",
    "write_part",
    "write_table",
]

Mode = Literal["topk", "sampled", "text"]
"""`topk`: the most probable tokens; `sampled`: tokens drawn from the whole distribution; `text`: no signal."""

_METADATA_KEY = b"stillhouse"

_ZSTD_LEVEL = 19
"""5 bytes a token of 64 entries less than level 12 takes; a core packs some 16,000 such tokens a second."""

RECORD_SCHEMA = pyarrow.schema(
    [
        ("id", pyarrow.string()),
        ("index", pyarrow.int64()),
        ("sample", pyarrow.int16()),
        ("teacher", pyarrow.string()),
        ("fields", pyarrow.string()),
        ("gold", pyarrow.string()),
        ("prompt_token_ids", pyarrow.list_(pyarrow.int32())),
        ("completion", pyarrow.string()),
        ("completion_token_ids", pyarrow.list_(pyarrow.int32())),
        ("token_logprobs", pyarrow.list_(pyarrow.float32())),
        ("finish_reason", pyarrow.string()),
        ("agreement", pyarrow.float32()),
        ("error", pyarrow.string()),
        *SIGNAL_FIELDS,
    ]
)
"""One row a completion; `sample` numbers those of a record, and `teacher` names who wrote it. `fields` is the JSON
object of the prompt's columns. `token_logprobs` [tokens] are the raw logprobs of the sampled tokens, null where the
teacher told none. `agreement` is the share of an ensemble's votes behind the completion. A record that failed for good
has its id, index, fields, gold and `error`, and nothing else. The signal's columns are null where there is none."""


@dataclass(frozen=True)
class Completion:
    """What a teacher answered to one prompt.

    Attributes:
        prompt_token_ids: what was asked.
        text: the completion, without the end-of-sequence token.
        token_ids: [tokens], the end-of-sequence token included where the model wrote one.
        finish_reason: `stop`, or `length` if it was cut off.
        token_logprobs: [tokens], raw (temperature-free) logprob of each sampled token, in nats; under structured
            outputs normalised over the allowed tokens. None where the teacher told none.
        signal: [tokens], its distribution at each token; None for text alone.
    """

    prompt_token_ids: list[int]
    text: str
    token_ids: list[int]
    finish_reason: str
    token_logprobs: list[float] | None
    signal: SparseSignal | None


@dataclass(frozen=True)
class PartDescription:
    """What a Parquet part says of itself, in the file's own metadata.

    Attributes:
        made_from: digest of the hashes of everything that the capture is made from.
        model: the recipe's name of the teacher.
        tokenizer_hash: of the tokenizer that the token ids belong to.
        template_hash: of its chat template.
        engine: name and version of what ran the teacher.
        mode: `topk`, `sampled` or `text`.
        k: most entries a token, for `topk`.
        dtype: what the teacher computed in.
        mass: where `topk` is cut off, if it is.
        draws: tokens drawn at each position, for `sampled`.
        encoding: how probabilities are read from the signal's columns.
    """

    made_from: str
    model: str
    tokenizer_hash: str
    template_hash: str
    engine: str
    mode: Mode
    k: int | None
    dtype: str
    mass: float | None = None
    draws: int | None = None
    encoding: str = ENCODING


def to_row(
    record: Record, completion: Completion, sample: int = 0, teacher: str = "teacher", agreement: float | None = None
) -> dict[str, Any]:
    """What `write_part` stores of a record and one of its completions."""
    return {
        **_of_record(record),
        "sample": sample,
        "teacher": teacher,
        "prompt_token_ids": completion.prompt_token_ids,
        "completion": completion.text,
        "completion_token_ids": completion.token_ids,
        "token_logprobs": completion.token_logprobs,
        "finish_reason": completion.finish_reason,
        "agreement": agreement,
        "signal": completion.signal,
    }


def failed_row(record: Record, error: str) -> dict[str, Any]:
    """What `write_part` stores of a record that failed for good; `error` is one sentence."""
    return {**_of_record(record), "error": error}


def _of_record(record: Record) -> dict[str, Any]:
    return {
        "id": record.id,
        "index": record.index,
        "fields": json.dumps(record.fields, ensure_ascii=False),
        "gold": record.gold,
    }


def to_table(rows: Sequence[dict[str, Any]], *, mode: Mode = "topk") -> pyarrow.Table:
    """Rows of `to_row` and `failed_row` as a table of `RECORD_SCHEMA`.

    Raises:
        ValueError: a row's signal is not of that mode.
    """
    plain = pyarrow.schema(list(RECORD_SCHEMA)[: -len(SIGNAL_FIELDS)])
    told = [{name: row.get(name) for name in plain.names} for row in rows]
    signals_of_rows = [row.get("signal") for row in rows]
    for row, signal in zip(rows, signals_of_rows, strict=True):
        if signal is not None and mode != ("topk" if signal.draws is None else "sampled"):
            raise ValueError(f"record {row['id']} has another signal than a capture in the mode {mode} has")
    columns = pyarrow.Table.from_pylist(told, schema=plain).columns
    return pyarrow.Table.from_arrays([*columns, *signal_columns(signals_of_rows)], schema=RECORD_SCHEMA)


def write_part(rows: Sequence[dict[str, Any]], description: PartDescription) -> bytes:
    """The Parquet file of some rows of `to_row` and `failed_row`."""
    return write_table(to_table(rows, mode=description.mode), asdict(description))


def write_table(table: pyarrow.Table, description: dict[str, Any]) -> bytes:
    """A table as a Parquet file that carries `description` in its metadata."""
    metadata = {
        **(table.schema.metadata or {}),
        _METADATA_KEY: json.dumps(description, sort_keys=True).encode(),
    }
    buffer = io.BytesIO()
    leaves = {path: kind for field in table.schema for path, kind in _leaves(field.name, field.type)}
    split = [path for path, kind in leaves.items() if _is_split(path, kind)]
    pyarrow.parquet.write_table(
        table.replace_schema_metadata(metadata),
        buffer,
        compression="zstd",
        compression_level=_ZSTD_LEVEL,
        use_dictionary=[path for path in leaves if path not in split],
        column_encoding=dict.fromkeys(split, "BYTE_STREAM_SPLIT") or None,
        # A flipped bit in compressed numbers often decodes to other numbers; the checksums find it.
        write_page_checksum=True,
    )
    return buffer.getvalue()


def _leaves(path: str, kind: pyarrow.DataType) -> Iterator[tuple[str, pyarrow.DataType]]:
    """The columns that Parquet makes of a field, by its own names: it calls what Arrow calls `item` an `element`."""
    if pyarrow.types.is_list(kind):
        yield from _leaves(f"{path}.list.element", kind.value_type)
    else:
        yield path, kind


def _is_split(path: str, kind: pyarrow.DataType) -> bool:
    """Whether a column is stored in byte-stream split: lists of numbers, whose bytes are alike by their place."""
    return ".list." in path and (pyarrow.types.is_integer(kind) or pyarrow.types.is_float32(kind))


def read_table(data: bytes, *, name: str, columns: Sequence[str] | None = None) -> pyarrow.Table:
    """The table in a Parquet file, or some `columns` of it; `name` says in errors which file.

    Raises:
        UserError: the file is damaged.
    """
    chosen = None if columns is None else list(columns)
    try:
        table = pyarrow.parquet.read_table(pyarrow.BufferReader(data), columns=chosen, page_checksum_verification=True)
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
