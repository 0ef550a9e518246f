"""The signal as Parquet columns: compact, and read by anything that reads Parquet.

Entries stand in the order of their token ids, since sorted ids are what Parquet's byte-stream split and zstd pack best;
the rank order is that of the levels. A level is the fourth root of a probability, in even steps. The divergence that an
error costs is ½ Σ p (Δ log p)² at a temperature of 1, for which steps of √p would be best, and at a temperature of 2
(`student.temperature`) the same of √p, for which steps of ⁴√p are; they serve both, and reach from 1 down to 1e-9.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute as pc
from numpy.typing import NDArray

from stillhouse.errors import UserError
from stillhouse.signal.sparse import SparseSignal, token_sums

SIGNAL_FIELDS = [
    ("top_ids", pyarrow.list_(pyarrow.list_(pyarrow.int32()))),
    ("top_levels", pyarrow.list_(pyarrow.list_(pyarrow.uint8()))),
    ("top_counts", pyarrow.list_(pyarrow.list_(pyarrow.uint8()))),
    ("mass", pyarrow.list_(pyarrow.float32())),
]
"""One list a completion token, in which `top_ids` ascend. `topk` has `top_levels`: the probability of an entry is
`mass · (level + ½)⁴ / Σ (level + ½)⁴`. `sampled` has `top_counts`: it is `count / Σ count`. The other one is null, and
all are for a record without signal."""

ENCODING = "probability = mass * pow(level + 0.5, 4) / sum(pow(level + 0.5, 4)), or count / sum(count)"
"""What a part says of its columns."""

_ROOT = 4
_TINY = np.finfo(np.float32).tiny


def steps(entries: NDArray[np.int64]) -> NDArray[np.float64]:
    """How many steps the fourth roots from 0 to 1 are cut into, for a token of so many entries.

    The divergence of n like entries is 2/3 · √n / steps² on average, and less for others. 80 steps bring it below 1e-3
    nats for 64 entries; more entries need more, for their errors add up, and few can afford more.
    """
    return np.clip(np.maximum(10 * np.sqrt(entries), 2040 / np.maximum(entries, 1)), 80, 255)


def signal_columns(signals: Sequence[SparseSignal | None]) -> list[pyarrow.Array]:
    """The columns of `SIGNAL_FIELDS`, one row a completion."""
    ordered = [None if signal is None else _by_id(signal) for signal in signals]
    topk = [signal if signal is not None and signal.draws is None else None for signal in ordered]
    sampled = [signal if signal is not None and signal.draws is not None else None for signal in ordered]
    return [
        _nested(ordered, [signal.ids for signal in ordered if signal is not None], np.int32),
        _nested(topk, [_levels(signal) for signal in topk if signal is not None], np.uint8),
        _nested(sampled, [_counts(signal) for signal in sampled if signal is not None], np.uint8),
        _rows(ordered, _joined([signal.mass for signal in ordered if signal is not None], np.float32)),
    ]


def signals(table: pyarrow.Table, *, name: str = "the table") -> list[SparseSignal | None]:
    """The signal of every row, decoded; None for a row without.

    Entries of the same level, or drawn as often, are in the order of their ids.

    Args:
        name: says in errors which table it is.

    Raises:
        UserError: the table has no such columns, or the lists of a row do not belong together.
    """
    if missing := [column for column, _ in SIGNAL_FIELDS if column not in table.column_names]:
        raise UserError(f"{name} has no column {missing[0]!r}: capture again")
    ids, levels, counts, mass = (_column(table, column) for column, _ in SIGNAL_FIELDS)
    tokens = _lengths(ids)
    here, topk, sampled = (np.asarray(pc.is_valid(column)) for column in (ids, levels, counts))
    if not (
        np.array_equal(here, topk | sampled)
        and not (topk & sampled).any()
        and np.array_equal(tokens, _lengths(mass))
        and np.array_equal(tokens, _lengths(levels) + _lengths(counts))
    ):
        raise UserError(f"{name} holds signal columns that do not belong together: capture again")
    found: list[SparseSignal | None] = [None] * table.num_rows
    for chosen, column, drawn in ((topk, levels, False), (sampled, counts, True)):
        mask = pyarrow.array(chosen)
        whole, totals = _decoded(ids.filter(mask), column.filter(mask), mass.filter(mask), drawn=drawn, name=name)
        ends = np.cumsum(tokens[chosen])
        for row, end in zip(np.flatnonzero(chosen).tolist(), ends.tolist(), strict=True):
            start = end - int(tokens[row])
            draws = int(totals[start:end].max(initial=0)) if drawn else None
            if drawn and not np.all(totals[start:end] == draws):
                raise UserError(f"{name}, row {row + 1} holds tokens drawn more often than others: capture again")
            found[row] = _part(whole, start, end, draws)
    return found


def _decoded(
    ids: pyarrow.Array, values: pyarrow.Array, mass: pyarrow.Array, *, drawn: bool, name: str
) -> tuple[SparseSignal, NDArray[np.float64]]:
    """The tokens of all rows as one signal, and what each token's `values` (levels, or counts of draws) add up to."""
    by_token, values_by_token = ids.flatten(), values.flatten()
    entries = _lengths(by_token)
    if not np.array_equal(entries, _lengths(values_by_token)):
        raise UserError(f"{name} lacks the probability of a token, or its id: capture again")
    offsets = np.concatenate([[0], np.cumsum(entries)])
    stored = np.asarray(values_by_token.flatten()).astype(np.float64)
    weights = stored if drawn else (stored + 0.5) ** _ROOT
    # A probability that float32 cannot hold is kept finite, as the smallest that it can.
    masses = np.maximum(np.asarray(mass.flatten()), _TINY).astype(np.float32)
    totals = token_sums(weights, offsets)
    shares = weights * np.repeat(masses.astype(np.float64) / np.maximum(totals, _TINY), entries)
    order = np.lexsort((-stored, np.repeat(np.arange(len(entries)), entries)))
    logprobs = np.log(np.maximum(shares, _TINY)).astype(np.float32)
    return SparseSignal(np.asarray(by_token.flatten())[order], logprobs[order], offsets, masses), totals


def _part(signal: SparseSignal, start: int, end: int, draws: int | None) -> SparseSignal:
    """The tokens from `start` to `end`."""
    offsets = signal.offsets[start : end + 1]
    entries = slice(offsets[0], offsets[-1])
    return SparseSignal(
        signal.ids[entries], signal.logprobs[entries], offsets - offsets[0], signal.mass[start:end], draws
    )


def _by_id(signal: SparseSignal) -> SparseSignal:
    order = np.lexsort((signal.ids, np.repeat(np.arange(len(signal)), signal.counts)))
    return SparseSignal(signal.ids[order], signal.logprobs[order], signal.offsets, signal.mass, signal.draws)


def _levels(signal: SparseSignal) -> NDArray[np.uint8]:
    """[entries]: `mass` brings back what they add up to, so that all steps serve the shares."""
    highest = np.zeros(len(signal))
    has = signal.counts > 0
    logprobs = signal.logprobs.astype(np.float64)
    if has.any():
        highest[has] = np.maximum.reduceat(logprobs, signal.offsets[:-1][has])
    weights = np.exp(logprobs - np.repeat(highest, signal.counts))
    shares = weights / np.repeat(np.maximum(token_sums(weights, signal.offsets), 1.0), signal.counts)
    cut_into = np.repeat(steps(signal.counts), signal.counts)
    return np.minimum(np.floor(shares ** (1 / _ROOT) * cut_into), cut_into - 1).astype(np.uint8)


def _counts(signal: SparseSignal) -> NDArray[np.uint8]:
    if signal.draws is None or not 0 <= signal.draws <= 255:
        raise ValueError(f"{signal.draws} draws are not between 1 and 255")
    return np.rint(np.exp(signal.logprobs.astype(np.float64)) * signal.draws).astype(np.uint8)


def _nested(
    signals: Sequence[SparseSignal | None], values: Sequence[NDArray[Any]], dtype: type[np.generic]
) -> pyarrow.Array:
    counts = [signal.counts for signal in signals if signal is not None]
    inner = pyarrow.ListArray.from_arrays(_offsets(_joined(counts, np.int64)), pyarrow.array(_joined(values, dtype)))
    return _rows(signals, inner)


def _rows(signals: Sequence[SparseSignal | None], tokens: pyarrow.Array | NDArray[Any]) -> pyarrow.Array:
    offsets = _offsets(np.array([0 if signal is None else len(signal) for signal in signals], np.int64))
    absent = pyarrow.array([signal is None for signal in signals], pyarrow.bool_())
    return pyarrow.ListArray.from_arrays(offsets, tokens, mask=absent)


def _offsets(counts: NDArray[Any]) -> pyarrow.Array:
    return pyarrow.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))


def _joined(arrays: Sequence[NDArray[Any]], dtype: type[np.generic]) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype), *arrays]).astype(dtype, copy=False)


def _column(table: pyarrow.Table, name: str) -> pyarrow.Array:
    return table[name].combine_chunks()


def _lengths(lists: pyarrow.Array) -> NDArray[np.int64]:
    """[lists], 0 for null."""
    return np.asarray(pc.fill_null(pc.list_value_length(lists), 0)).astype(np.int64)
