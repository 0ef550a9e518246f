"""Which records every worker sees at every step, and how they become tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from stillhouse.errors import UserError
from stillhouse.losses.mix import Targets
from stillhouse.losses.shift import predicting_positions
from stillhouse.run import Run
from stillhouse.signal.schema import read_table

Record = Mapping[str, Any]
"""A row of the dataset: `prompt_token_ids`, `completion_token_ids`, `top_ids`, `top_logprobs`."""


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


def load_split(run: Run, split: str, *, max_length: int) -> tuple[list[dict[str, Any]], int]:
    """The records of a split that fit into `max_length` tokens, and how many do not.

    Raises:
        UserError: none fits.
    """
    key = f"dataset/{split}.parquet"
    columns = ["prompt_token_ids", "completion_token_ids", "top_ids", "top_logprobs"]
    rows: list[dict[str, Any]] = read_table(run.storage.read(key), name=key).select(columns).to_pylist()
    fitting = [row for row in rows if length(row) <= max_length]
    if not fitting:
        raise UserError(f"no {split} record fits into {max_length} tokens: raise `student.max_length`")
    return fitting, len(rows) - len(fitting)


def length(record: Record) -> int:
    """Tokens of prompt and completion."""
    return len(record["prompt_token_ids"]) + len(record["completion_token_ids"])


def steps_in_epoch(records: int, batch_size: int) -> int:
    """Optimizer steps of a pass over the records; the last one may be smaller."""
    return -(-records // batch_size)


def step_records(
    lengths: Sequence[int], step: int, *, batch_size: int, workers: int, micro_batch_size: int, seed: int
) -> list[list[list[int]]]:
    """Indices of the records of one optimizer step: [micro-batches][workers][records].

    It depends on nothing but its arguments, so that a resumed training sees the batches that it would have seen.
    Within a step records are sorted by length, so that those that share a micro-batch share little padding.
    """
    epoch, place = divmod(step, steps_in_epoch(len(lengths), batch_size))
    order = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch)).tolist()
    chosen = sorted(order[place * batch_size : (place + 1) * batch_size], key=lambda i: (lengths[i], i))
    block = workers * micro_batch_size
    micro_batches = [chosen[start : start + block] for start in range(0, batch_size, block)]
    return [[micro_batch[worker::workers] for worker in range(workers)] for micro_batch in micro_batches]


def collate(records: Sequence[Record], *, pad_id: int) -> Batch:
    """Tensors of some records; loss is carried by the positions that predict completion tokens, and by no others.

    The end of a sequence is taught only where the teacher wrote it: it is a token of the completion, and a
    truncated one has none.
    """
    longest = max(length(record) for record in records)
    k = max((len(ids) for record in records for ids in record["top_ids"]), default=1)
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
    tops = [
        (ids, logprobs)
        for record in records
        for ids, logprobs in zip(record["top_ids"], record["top_logprobs"], strict=True)
    ]
    top_ids = torch.zeros((len(tops), k), dtype=torch.int64)
    top_logprobs = torch.full((len(tops), k), -torch.inf)
    for i, (ids, logprobs) in enumerate(tops):
        top_ids[i, : len(ids)] = torch.tensor(ids, dtype=torch.int64)
        top_logprobs[i, : len(ids)] = torch.tensor(logprobs)
    targets = Targets(
        ids=torch.tensor([token for record in records for token in record["completion_token_ids"]], dtype=torch.int64),
        top_ids=top_ids,
        top_logprobs=top_logprobs,
        weights=torch.ones(len(rows)),
    )
    return Batch(input_ids, attention_mask, torch.tensor(rows), torch.tensor(columns), targets)


def weightless(batch: Batch) -> Batch:
    """The same batch, with no token that counts: for a worker without records, which must still take part in the
    step."""
    targets = Targets(**{**vars(batch.targets), "weights": torch.zeros_like(batch.targets.weights)})
    return Batch(batch.input_ids, batch.attention_mask, batch.rows, batch.columns, targets)


def slices(records: Sequence[Record], size: int) -> Iterator[Sequence[Record]]:
    """The records, `size` at a time."""
    for start in range(0, len(records), size):
        yield records[start : start + size]
