"""Which records every worker sees at every step, and how they become tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from stillhouse.errors import UserError
from stillhouse.losses.mix import Targets
from stillhouse.losses.shift import predicting_positions
from stillhouse.run import Run
from stillhouse.signal.schema import read_table, signals
from stillhouse.signal.sparse import SparseSignal

Record = Mapping[str, Any]
"""A row of the dataset: `id`, `prompt_token_ids`, `completion_token_ids`, and its `signal`, or None."""

T = TypeVar("T")

_WINDOW = 8
"""Batches whose records are sorted together: enough to halve the padding of sentences, few enough to stay random."""

_ROUNDING = 1e-3
"""A probability of one may have a logprob that is this much above zero."""


@dataclass(frozen=True)
class Batch:
    """One micro-batch.

    Attributes:
        input_ids: [records, length], int64, padded on the right.
        attention_mask: [records, length], int64, 0 on padding.
        rows: [tokens], int64, the record of each position that carries loss.
        columns: [tokens], int64, its place in the record.
        targets: what is predicted there.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    targets: Targets

    def to(self, device: torch.device) -> Batch:
        """A copy on a device."""
        targets = Targets(**{name: value.to(device) for name, value in vars(self.targets).items()})
        moved = {name: getattr(self, name).to(device) for name in ("input_ids", "attention_mask", "rows", "columns")}
        return Batch(**moved, targets=targets)


def load_split(run: Run, split: str, *, max_length: int, with_signal: bool = True) -> tuple[list[dict[str, Any]], int]:
    """The records of a split that fit into `max_length` tokens, and how many do not.

    Args:
        with_signal: read the teacher's distributions; without them there is cross-entropy alone to train on.

    Raises:
        UserError: none fits, or a completion token lacks the teacher's logprobs: hard targets never stand in for them.
    """
    key = f"dataset/{split}.parquet"
    table = read_table(run.storage.read(key), name=key)
    columns = ["id", "prompt_token_ids", "completion_token_ids", "finish_reason"]
    rows: list[dict[str, Any]] = table.select(columns).to_pylist()
    found = signals(table, name=key) if with_signal else [None] * len(rows)
    for row, signal in zip(rows, found, strict=True):
        row["signal"] = signal
        ended = row.pop("finish_reason") == "stop"
        where = f"{key}, record {row['id']}"
        if not row["prompt_token_ids"] or not row["completion_token_ids"]:
            raise UserError(f"{where} has no prompt or no completion: curate again")
        if with_signal:
            _check_signal(signal, len(row["completion_token_ids"]), where, ended=ended)
    fitting = [row for row in rows if length(row) <= max_length]
    if not fitting:
        raise UserError(f"no {split} record fits into {max_length} tokens: raise `student.max_length`")
    return fitting, len(rows) - len(fitting)


def _check_signal(signal: SparseSignal | None, tokens: int, where: str, *, ended: bool) -> None:
    # OpenAI's API does not tell how probable the end of a sequence was: that one token may have no entries.
    if signal is None or len(signal) != tokens or not signal.counts[: tokens - ended].all() or not signal.counts.any():
        raise UserError(
            f"{where} lacks the teacher's logprobs of a token, so there is nothing to distil: capture again"
        )
    if not np.all(np.isfinite(signal.logprobs) & (signal.logprobs < _ROUNDING)):
        raise UserError(f"{where} holds values that are no logprobs: capture again")


def captured_mass(records: Sequence[Record]) -> float:
    """Mean share of the teacher's probability that its stored tokens hold; the rest is renormalised away."""
    return float(np.mean(np.concatenate([record["signal"].mass for record in records]), dtype=np.float64))


def length(record: Record) -> int:
    """Tokens of prompt and completion."""
    return len(record["prompt_token_ids"]) + len(record["completion_token_ids"])


class Sampler:
    """Which records every optimizer step sees.

    It depends on nothing but its arguments and the step's number, so that a resumed training sees the batches that it
    would have seen, and any number of workers the same ones. Records of like length share a batch, so that little of
    it is padding: those of `_WINDOW` batches are drawn at random, sorted, cut into batches, and these are shuffled.
    """

    def __init__(self, lengths: Sequence[int], *, batch_size: int, seed: int) -> None:
        self._lengths, self._batch_size, self._seed = lengths, batch_size, seed
        self.steps_in_epoch = -(-len(lengths) // batch_size)
        self._epoch, self._batches = -1, [[0]]

    def batch(self, step: int) -> list[int]:
        """Indices of the records of a step, shortest first; the last batch of an epoch may be smaller."""
        epoch, place = divmod(step, self.steps_in_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._shuffled(epoch)
        return self._batches[place]

    def _shuffled(self, epoch: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
        order = torch.randperm(len(self._lengths), generator=generator).tolist()
        found: list[list[int]] = []
        for window in slices(order, _WINDOW * self._batch_size):
            batches = list(slices(sorted(window, key=lambda i: (self._lengths[i], i)), self._batch_size))
            found += [list(batches[i]) for i in torch.randperm(len(batches), generator=generator).tolist()]
        return found


def shares(batch: Sequence[int], *, batch_size: int, workers: int, micro_batch_size: int) -> list[list[list[int]]]:
    """A batch split up: [micro-batches][workers][records], as many micro-batches whether the batch is full or not.

    Workers take turns, so that records of like length meet in a micro-batch and no worker waits long for another.
    """
    block = workers * micro_batch_size
    blocks = [batch[start : start + block] for start in range(0, batch_size, block)]
    return [[list(one[worker::workers]) for worker in range(workers)] for one in blocks]


def collate(records: Sequence[Record], *, pad_id: int) -> Batch:
    """Tensors of some records; loss is carried by the positions that predict completion tokens, and by no others.

    The end of a sequence is taught only where the teacher wrote it: it is a token of the completion, and a
    truncated one has none.
    """
    longest = max(length(record) for record in records)
    input_ids = torch.full((len(records), longest), pad_id)
    attention_mask = torch.zeros((len(records), longest), dtype=torch.int64)
    rows: list[int] = []
    columns: list[int] = []
    for i, record in enumerate(records):
        ids = [*record["prompt_token_ids"], *record["completion_token_ids"]]
        input_ids[i, : len(ids)] = torch.tensor(ids)
        attention_mask[i, : len(ids)] = 1
        positions = predicting_positions(len(record["prompt_token_ids"]), len(record["completion_token_ids"]))
        rows += [i] * len(positions)
        columns += positions
    top_ids, top_logprobs = _tops(records)
    targets = Targets(
        ids=torch.tensor([token for record in records for token in record["completion_token_ids"]], dtype=torch.int64),
        top_ids=top_ids,
        top_logprobs=top_logprobs,
        weights=torch.ones(len(rows)),
    )
    return Batch(input_ids, attention_mask, torch.tensor(rows), torch.tensor(columns), targets)


def _tops(records: Sequence[Record]) -> tuple[torch.Tensor, torch.Tensor]:
    """[tokens, k] ids and logprobs; k is 0 without signal."""
    found = [record["signal"] for record in records]
    if all(signal is None for signal in found):
        tokens = sum(len(record["completion_token_ids"]) for record in records)
        return torch.zeros((tokens, 0), dtype=torch.int64), torch.zeros((tokens, 0))
    counts = np.concatenate([signal.counts for signal in found])
    filled = np.arange(counts.max()) < counts[:, None]
    top_ids = np.zeros(filled.shape, np.int64)
    top_ids[filled] = np.concatenate([signal.ids for signal in found])
    top_logprobs = np.full(filled.shape, -np.inf, np.float32)
    top_logprobs[filled] = np.concatenate([signal.logprobs for signal in found])
    return torch.from_numpy(top_ids), torch.from_numpy(top_logprobs)


def weightless(batch: Batch) -> Batch:
    """The same batch, with no token that counts: for a worker without records, which must still take part in the
    step."""
    targets = Targets(**{**vars(batch.targets), "weights": torch.zeros_like(batch.targets.weights)})
    return Batch(batch.input_ids, batch.attention_mask, batch.rows, batch.columns, targets)


def slices(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """The items, `size` at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
