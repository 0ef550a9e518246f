"""The signal as Parquet columns, one list a completion token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow

from stillhouse.errors import UserError
from stillhouse.signal.sparse import SparseSignal

SIGNAL_FIELDS = [
    ("top_ids", pyarrow.list_(pyarrow.list_(pyarrow.int32()))),
    ("top_logprobs", pyarrow.list_(pyarrow.list_(pyarrow.float32()))),
    ("mass", pyarrow.list_(pyarrow.float32())),
]
"""All three are null for a record without signal."""


def signal_columns(signals: Sequence[SparseSignal | None], *, mode: str = "topk") -> list[pyarrow.Array]:
    """The columns of `SIGNAL_FIELDS`, one row a completion."""
    present = [signal for signal in signals if signal is not None]
    absent = pyarrow.array([signal is None for signal in signals], pyarrow.bool_())
    tokens = _offsets([0 if signal is None else len(signal) for signal in signals])
    entries = _offsets([count for signal in present for count in signal.counts.tolist()])
    ids = _joined([signal.ids for signal in present], np.int32)
    logprobs = _joined([signal.logprobs for signal in present], np.float32)
    mass = _joined([signal.mass for signal in present], np.float32)
    return [
        *(
            pyarrow.ListArray.from_arrays(tokens, pyarrow.ListArray.from_arrays(entries, values), mask=absent)
            for values in (ids, logprobs)
        ),
        pyarrow.ListArray.from_arrays(tokens, mass, mask=absent),
    ]


def signals(table: pyarrow.Table, *, name: str = "the table") -> list[SparseSignal | None]:
    """The signal of every row, decoded; None for a row without. `name` says in errors which table it is.

    Raises:
        UserError: the table has no such columns, or the lists of a row do not belong together.
    """
    if missing := [column for column, _ in SIGNAL_FIELDS if column not in table.column_names]:
        raise UserError(f"{name} has no column {missing[0]!r}: capture again")
    columns = [table[column].to_pylist() for column, _ in SIGNAL_FIELDS]
    found: list[SparseSignal | None] = []
    for i, (ids, logprobs, mass) in enumerate(zip(*columns, strict=True)):
        if ids is None:
            found.append(None)
            continue
        if not [len(of) for of in ids] == [len(of) for of in logprobs] or len(mass) != len(ids):
            raise UserError(f"{name}, row {i + 1} lacks the teacher's logprobs of a token: capture again")
        signal = SparseSignal.of(ids, logprobs)
        found.append(SparseSignal(signal.ids, signal.logprobs, signal.offsets, np.array(mass, np.float32)))
    return found


def _offsets(counts: Sequence[int]) -> pyarrow.Array:
    return pyarrow.array(np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int32))


def _joined(arrays: Sequence[np.ndarray], dtype: type) -> pyarrow.Array:
    return pyarrow.array(np.concatenate([np.zeros(0, dtype), *arrays]).astype(dtype, copy=False))
