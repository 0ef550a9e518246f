"""Which records every worker sees at every step, and how they become tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from ray_jobs.train.records import Example
from stillhouse.losses.mix import Targets
from stillhouse.losses.shift import predicting_positions

T = TypeVar("T")

_WINDOW = 8
"""Batches whose records are sorted together: enough to halve the padding of sentences, few enough to stay random."""


@dataclass(frozen=True)
class Batch:
    """One micro-batch.

    Attributes:
        input_ids: [rows, length], int64; padded on the right, or one row of all sequences end to end.
        attention_mask: [rows, length], int64, 0 on padding; None without padding.
        position_ids: [rows, length], int64, from 0 in each sequence: what keeps packed ones apart; None where padded.
        rows: [tokens], int64, the row of each position that carries loss.
        columns: [tokens], int64, its place in the row.
        sequence: [tokens], int64, which sequence of the micro-batch it belongs to.
        targets: what is predicted there.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor | None
    position_ids: torch.Tensor | None
    rows: torch.Tensor
    columns: torch.Tensor
    sequence: torch.Tensor
    targets: Targets

    def to(self, device: torch.device) -> Batch:
        """A copy on a device."""

        def moved(value: torch.Tensor | None) -> Any:
            return None if value is None else value.to(device)

        targets = Targets(**{name: moved(value) for name, value in vars(self.targets).items()})
        others = {name: moved(value) for name, value in vars(self).items() if name != "targets"}
        return Batch(**others, targets=targets)


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


def micro_batches(*, batch_size: int, workers: int, micro_batch_size: int) -> int:
    """Micro-batches that a worker adds up to one optimizer step."""
    return -(-batch_size // (workers * micro_batch_size))


def collate(examples: Sequence[Example], *, pad_id: int, packing: bool = False) -> Batch:
    """Tensors of some sequences; loss is carried by the positions that predict completion tokens, and by no others.

    The end of a sequence is taught only where its writer ended it: it is a token of the completion, and a truncated
    one has none.

    Args:
        packing: put all sequences into one row, end to end. Their positions start anew, from which the model's
            attention takes where each begins; no sequence's last token predicts another's first, since a prompt's
            first token is never predicted.
    """
    lengths = [len(example) for example in examples]
    starts = np.concatenate([[0], np.cumsum(lengths)])[:-1] if packing else np.zeros(len(examples), np.int64)
    shape = (1, sum(lengths)) if packing else (len(examples), max(lengths))
    input_ids, position_ids = torch.full(shape, pad_id), torch.zeros(shape, dtype=torch.int64)
    attention_mask = torch.zeros(shape, dtype=torch.int64)
    columns: list[torch.Tensor] = []
    for i, (example, start, length) in enumerate(zip(examples, starts.tolist(), lengths, strict=True)):
        place = (0 if packing else i, slice(start, start + length))
        input_ids[place] = torch.from_numpy(np.concatenate([example.prompt, example.completion]).astype(np.int64))
        position_ids[place] = torch.arange(length)
        attention_mask[place] = 1
        positions = predicting_positions(len(example.prompt), len(example.completion))
        columns.append(torch.tensor(positions) + start)
    completions = [len(example.completion) for example in examples]
    sequence = torch.repeat_interleave(torch.arange(len(examples)), torch.tensor(completions))
    return Batch(
        input_ids,
        None if packing else attention_mask,
        position_ids if packing else None,
        rows=torch.zeros_like(sequence) if packing else sequence,
        columns=torch.cat(columns),
        sequence=sequence,
        targets=_targets(examples),
    )


def _targets(examples: Sequence[Example]) -> Targets:
    """What the completions are held to; k is 0 without any signal."""
    tokens = [len(example.completion) for example in examples]
    counts = np.concatenate(
        [
            np.zeros(n, np.int64) if one.signal is None else one.signal.counts
            for one, n in zip(examples, tokens, strict=True)
        ]
    )
    filled = np.arange(counts.max()) < counts[:, None]
    top_ids = np.zeros(filled.shape, np.int64)
    top_logprobs = np.full(filled.shape, -np.inf, np.float32)
    if filled.size:
        found = [example.signal for example in examples if example.signal is not None]
        top_ids[filled] = np.concatenate([signal.ids for signal in found])
        top_logprobs[filled] = np.concatenate([signal.logprobs for signal in found])
    ids = np.concatenate([example.completion for example in examples]).astype(np.int64)
    ce = np.repeat(np.array([example.cross_entropy for example in examples], np.float32), tokens)
    return Targets(
        ids=torch.from_numpy(ids),
        top_ids=torch.from_numpy(top_ids),
        top_logprobs=torch.from_numpy(top_logprobs),
        kd=torch.from_numpy((counts > 0).astype(np.float32)),
        ce=torch.from_numpy(ce),
    )


def weightless(batch: Batch) -> Batch:
    """The same batch, with no token that counts: for a worker without records, which must still take part in the
    step."""
    none = torch.zeros_like(batch.targets.ce)
    targets = Targets(**{**vars(batch.targets), "kd": none, "ce": none})
    return Batch(**{**vars(batch), "targets": targets})


def slices(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """The items, `size` at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
