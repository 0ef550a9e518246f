"""What a worker does with records: an optimizer step, a validation. All workers call each of them together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed

from ray_jobs.train import flops
from ray_jobs.train.batches import Batch, collate, shares, slices, weightless
from ray_jobs.train.distributed import accumulated
from ray_jobs.train.records import Split
from stillhouse.recipe import Student


@dataclass(frozen=True)
class Learner:
    """A worker's engine, and its part of every batch.

    Attributes:
        engine: DeepSpeed's, around a `DistilledModel`.
        pad_id: what rows of a micro-batch are filled up with.
    """

    engine: Any
    student: Student
    pad_id: int
    rank: int
    workers: int

    def step(self, records: Split, batch: Sequence[int], *, flag: bool = False) -> tuple[float, float, bool]:
        """One optimizer step on some records.

        Args:
            flag: travels with the losses.

        Returns:
            The divergence and the cross-entropy, each a mean over the batch's tokens that carry it; and whether any
            worker's flag was set.
        """
        student, workers = self.student, self.workers
        kd_tokens, ce_tokens = (int(counts[batch].sum()) for counts in (records.kd_tokens, records.ce_tokens))
        scale = workers * accumulated(student, workers)
        sums = torch.zeros(3, device=self.engine.device)
        for share in shares(
            batch, batch_size=student.batch_size, workers=workers, micro_batch_size=student.micro_batch_size
        ):
            own = self._collated(records, share[self.rank])
            total, kd, ce, _ = self.engine(own, kd_tokens, ce_tokens)
            # DeepSpeed takes the mean over micro-batches and workers; the loss is divided by the global counts already.
            self.engine.backward(total * scale)
            self.engine.step()
            sums[:2] += torch.stack([kd, ce])
        sums[2] = float(flag)
        torch.distributed.all_reduce(sums)
        kd_mean, ce_mean, flags = sums.tolist()
        return kd_mean, ce_mean, flags > 0

    @torch.no_grad()
    def validate(self, records: Split) -> tuple[float, float, float]:
        """Read held-out records, shared out over the workers.

        Returns:
            The mean divergence and cross-entropy a token; and agreement: the share of sequences all of whose tokens are
            the student's first choice too, each after the tokens before it.
        """
        kd_tokens, ce_tokens = max(1, int(records.kd_tokens.sum())), max(1, int(records.ce_tokens.sum()))
        self.engine.eval()
        order = sorted(range(len(records)), key=lambda i: int(records.lengths[i]))
        sums = torch.zeros(4, device=self.engine.device)
        # Every worker runs as many batches: under ZeRO-3 each of them takes part in gathering the weights.
        for block in slices(order, self.student.micro_batch_size * self.workers):
            own = block[self.rank :: self.workers]
            batch = self._collated(records, own)
            _, kd, ce, chosen = self.engine(batch, kd_tokens, ce_tokens, choices=True)
            wrong = torch.zeros(int(batch.sequence.max()) + 1, device=self.engine.device)
            wrong.index_add_(0, batch.sequence, (chosen != batch.targets.ids).float())
            right = torch.stack([(wrong == 0).sum(), wrong.new_tensor(len(wrong))]) if own else wrong.new_zeros(2)
            sums += torch.cat([torch.stack([kd, ce]), right])
        torch.distributed.all_reduce(sums)
        self.engine.train()
        kd_mean, ce_mean, agreed, sequences = sums.tolist()
        return kd_mean, ce_mean, agreed / sequences

    @torch.no_grad()
    def operations(self, records: Split, batch: Sequence[int]) -> float:
        """Floating-point operations that training takes for a token read: those of reading a micro-batch, and twice
        as many more for both gradients, or once where weights are frozen.

        Not counted in a step itself, since counting takes other kernels, whose last bits differ.
        """
        self.engine.eval()
        own = self._collated(records, batch[: self.student.micro_batch_size])
        with flops.counter() as counted:
            self.engine(own, 1, 1)
        self.engine.train()
        passes = 3 if self.student.lora is None else 2
        return float(passes * counted.get_total_flops() / own.input_ids.numel())

    def _collated(self, records: Split, own: Sequence[int]) -> Batch:
        """A worker's share; without records it runs another's without weight, since every worker takes part in a
        step."""
        found = records.examples(own)
        made = partial(collate, pad_id=self.pad_id, packing=self.student.packing)
        return (made(found) if found else weightless(made(records.examples([0])))).to(self.engine.device)
