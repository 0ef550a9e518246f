"""Batches: every record once an epoch, the same ones after a resume, and loss where it belongs."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs.train.batches import Sampler, collate, micro_batches, shares, weightless
from ray_jobs.train.records import Example
from stillhouse.signal.sparse import SparseSignal


def _example(prompt: list[int], completion: list[int], *, signal: bool = True, cross_entropy: bool = True) -> Example:
    told = SparseSignal.of(
        [[token, token + 1] for token in completion[:-1]] + [[completion[-1]]],
        [[-0.1, -2.4] for _ in completion[:-1]] + [[0.0]],
    )
    return Example(np.array(prompt, np.int32), np.array(completion, np.int32), told if signal else None, cross_entropy)


@given(
    records=st.integers(1, 200),
    workers=st.integers(1, 5),
    micro=st.sampled_from([1, 2, 3]),
    batch_size=st.integers(1, 20),
    seed=st.integers(0, 100),
)
@settings(max_examples=80, deadline=None)
def test_an_epoch_sees_every_record_once(records: int, workers: int, micro: int, batch_size: int, seed: int) -> None:
    # An elastic training may have a number of workers that the batch is no multiple of.
    repeat = micro_batches(batch_size=batch_size, workers=workers, micro_batch_size=micro)
    sampler = Sampler([(7 * i) % 11 + 1 for i in range(records)], batch_size=batch_size, seed=seed)
    for epoch in range(2):
        seen: Counter[int] = Counter()
        for step in range(epoch * sampler.steps_in_epoch, (epoch + 1) * sampler.steps_in_epoch):
            batch = sampler.batch(step)
            split = shares(batch, batch_size=batch_size, workers=workers, micro_batch_size=micro)
            assert len(split) == repeat, "every step has as many micro-batches, so that no worker waits for ever"
            assert all(len(part) <= micro for micro_batch in split for part in micro_batch)
            assert sorted(i for micro_batch in split for part in micro_batch for i in part) == sorted(batch)
            seen.update(batch)
        assert seen == Counter(range(records))


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    lengths = [(7 * i) % 31 + 1 for i in range(90)]

    def steps(seed: int) -> list[list[int]]:
        sampler = Sampler(lengths, batch_size=8, seed=seed)
        return [sampler.batch(step) for step in range(24)]

    assert steps(1) == steps(1)
    assert steps(1) != steps(2)
    assert steps(1)[:12] != steps(1)[12:], "the second epoch has another order"
    assert [Sampler(lengths, batch_size=8, seed=1).batch(step) for step in (17, 5, 23)] == [
        steps(1)[17],
        steps(1)[5],
        steps(1)[23],
    ], "a resumed training needs no earlier step to know a later one"


def test_records_of_like_length_share_a_batch() -> None:
    generator = random.Random(0)
    lengths = [generator.randint(10, 70) for _ in range(960)]
    sampler = Sampler(lengths, batch_size=32, seed=0)

    batches = [[lengths[i] for i in sampler.batch(step)] for step in range(30)]

    padded = sum(max(batch) * len(batch) for batch in batches)
    assert padded < 1.15 * sum(lengths), "in random order it is 1.7"
    first = [sum(batch) / len(batch) for batch in batches]
    assert first != sorted(first), "but short ones do not all come first"


def test_collate_puts_loss_on_the_positions_that_predict_the_completion() -> None:
    batch = collate([_example([5, 6, 7], [10, 2]), _example([8], [11, 12, 2])], pad_id=0)

    assert batch.input_ids.tolist() == [[5, 6, 7, 10, 2], [8, 11, 12, 2, 0]]
    assert batch.attention_mask is not None
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]
    assert batch.rows.tolist() == batch.sequence.tolist() == [0, 0, 1, 1, 1]
    assert batch.columns.tolist() == [2, 3, 0, 1, 2]
    assert batch.targets.ids.tolist() == [10, 2, 11, 12, 2]
    following = batch.input_ids[batch.rows, batch.columns + 1]
    assert following.tolist() == batch.targets.ids.tolist(), "each position predicts the next token"
    assert batch.targets.top_ids[0].tolist() == [10, 11]
    assert torch.isneginf(batch.targets.top_logprobs[1, 1]), "the end of the sequence has one entry"
    nothing = weightless(batch).targets
    assert nothing.kd.sum() == nothing.ce.sum() == 0


def test_packed_sequences_lie_end_to_end_and_predict_only_themselves() -> None:
    batch = collate([_example([5, 6, 7], [10, 2]), _example([8], [11, 12, 2])], pad_id=0, packing=True)

    assert batch.input_ids.tolist() == [[5, 6, 7, 10, 2, 8, 11, 12, 2]]
    assert batch.attention_mask is None
    assert batch.position_ids is not None
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 3]]
    assert batch.rows.tolist() == [0] * 5
    assert batch.columns.tolist() == [2, 3, 5, 6, 7]
    assert batch.sequence.tolist() == [0, 0, 1, 1, 1]
    assert batch.targets.ids.tolist() == [10, 2, 11, 12, 2]
    assert batch.input_ids[0, batch.columns + 1].tolist() == batch.targets.ids.tolist()


def test_a_truncated_completion_teaches_no_end() -> None:
    batch = collate([_example([5, 6], [10, 11]), _example([5, 6, 7, 8], [10, 2])], pad_id=2)

    own = batch.sequence == 0
    assert 2 not in batch.targets.ids[own].tolist(), "the padding after it is the end token, and carries no loss"


def test_each_sequence_carries_its_own_losses() -> None:
    scored, gold = _example([5], [10, 2], cross_entropy=False), _example([5], [13, 14, 2], signal=False)

    targets = collate([scored, gold], pad_id=0).targets

    assert targets.kd.tolist() == [1, 1, 0, 0, 0]
    assert targets.ce.tolist() == [0, 0, 1, 1, 1]
    assert torch.isneginf(targets.top_logprobs[2:]).all()
    assert collate([gold], pad_id=0).targets.top_ids.shape == (3, 0)
