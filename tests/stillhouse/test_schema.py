"""Parquet parts: what is written is read, and damage is never taken for data."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, replace

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.data import Record
from stillhouse.errors import UserError
from stillhouse.signal.schema import (
    RECORD_SCHEMA,
    Completion,
    PartDescription,
    description_of,
    failed_row,
    read_table,
    signals,
    to_row,
    to_table,
    write_part,
    write_table,
)
from stillhouse.signal.sparse import SparseSignal

DESCRIPTION = PartDescription("inputs", "teacher", "tokens", "template", "vllm 0", "topk", 2, "float32")


def completion(text: str = " positive", tokens: int = 2) -> Completion:
    return Completion(
        prompt_token_ids=[1, 2, 3],
        text=text,
        token_ids=list(range(tokens)),
        finish_reason="stop",
        token_logprobs=[-0.5] * tokens,
        signal=SparseSignal.of([[7, 8], [9]][:tokens], [[-0.5, -1.25], [0.0]][:tokens]),
    )


def record(i: int, text: str = "fine") -> Record:
    return Record(id=f"id-{i}", index=i, fields={"text": text}, gold="positive" if i % 2 else None)


def test_a_part_describes_itself_and_keeps_every_value() -> None:
    data = write_part([to_row(record(0, "café"), completion()), to_row(record(1), completion("", 0))], DESCRIPTION)
    table = read_table(data, name="part")
    assert description_of(table) == asdict(DESCRIPTION)
    first, second = table.to_pylist()
    assert json.loads(first["fields"]) == {"text": "café"}
    assert (first["id"], first["gold"], second["gold"]) == ("id-0", None, "positive")
    assert first["top_ids"] == [[7, 8], [9]]
    assert second["completion_token_ids"] == second["top_ids"] == second["token_logprobs"] == []


def test_types_do_not_depend_on_the_rows() -> None:
    for rows in ([], [to_row(record(0), completion("", 0))], [to_row(record(0), completion())]):
        assert read_table(write_part(rows, DESCRIPTION), name="part").schema.equals(RECORD_SCHEMA)


def test_samples_text_alone_and_failures_stand_in_one_part() -> None:
    text = replace(completion(), signal=None, token_logprobs=None, prompt_token_ids=[], token_ids=[])
    rows = [to_row(record(0), completion(), sample, "large", 0.75) for sample in range(3)]
    rows += [to_row(record(1), text), failed_row(record(2), "longer than the teacher reads")]
    table = read_table(write_part(rows, DESCRIPTION), name="part")

    found = table.to_pylist()
    assert [(row["id"], row["sample"], row["teacher"]) for row in found] == [
        ("id-0", 0, "large"),
        ("id-0", 1, "large"),
        ("id-0", 2, "large"),
        ("id-1", 0, "teacher"),
        ("id-2", None, None),
    ]
    assert found[0]["agreement"] == 0.75
    assert [signal is None for signal in signals(table)] == [False, False, False, True, True]
    assert found[3]["token_logprobs"] is None
    failed = {name for name, value in found[4].items() if value is not None}
    assert failed == {"id", "index", "fields", "error"}, "no gold answer here, and nothing else"


def test_signal_of_another_mode_is_refused() -> None:
    rows = [to_row(record(0), completion())]
    for mode in ("sampled", "text"):
        with pytest.raises(ValueError, match=f"record id-0 has another signal than a capture in the mode {mode}"):
            write_part(rows, replace(DESCRIPTION, mode=mode))
    drawn = SparseSignal.of_draws(np.array([7, 8], np.int32), np.array([1, 1]), np.array([0, 1, 2]), 1)
    with pytest.raises(ValueError, match="in the mode topk"):
        to_table([to_row(record(0), replace(completion(), signal=drawn))])


def test_numbers_are_stored_in_the_encodings_that_were_measured() -> None:
    footer = pyarrow.parquet.ParquetFile(
        pyarrow.BufferReader(write_part([to_row(record(0), completion())], DESCRIPTION))
    )
    group = footer.metadata.row_group(0)
    columns = {column.path_in_schema: column for column in (group.column(i) for i in range(group.num_columns))}
    for path in ("top_ids.list.element.list.element", "top_levels.list.element.list.element", "mass.list.element"):
        assert "BYTE_STREAM_SPLIT" in columns[path].encodings, path
        assert columns[path].compression == "ZSTD"
    assert "RLE_DICTIONARY" in columns["id"].encodings


def test_a_file_that_is_not_ours_says_nothing_of_itself() -> None:
    table = pyarrow.table({"a": [1]})
    assert description_of(table) == {}
    assert description_of(read_table(write_table(table, {"split": "test"}), name="x")) == {"split": "test"}


TABLE = to_table([to_row(record(i, str(i * 7919)), completion()) for i in range(100)])
PART = write_table(TABLE, {"split": "test"})


@given(st.integers(0, len(PART) - 1))
def test_a_part_cut_short_is_damaged(length: int) -> None:
    with pytest.raises(UserError, match=r"parts/part-0 is damaged .*: remove it to make it again") as caught:
        read_table(PART[:length], name="parts/part-0")
    assert "\n" not in str(caught.value)


@given(st.randoms(use_true_random=False))
def test_a_flipped_bit_in_a_page_is_found_or_does_not_matter(draw: random.Random) -> None:
    # The footer has no checksum: a finished step's files are held against the hashes in its manifest.
    footer = int.from_bytes(PART[-8:-4], "little") + 8
    data = bytearray(PART)
    data[draw.randrange(len(data) - footer)] ^= 1 << draw.randrange(8)
    try:
        table = read_table(bytes(data), name="part")
    except UserError:
        return
    assert table.equals(TABLE)
    assert description_of(table) == {"split": "test"}
