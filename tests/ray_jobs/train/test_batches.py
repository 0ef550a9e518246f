"""Batches: every record once an epoch, the same ones after a resume, and loss where it belongs."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs.train.batches import collate, length, load_split, step_records, steps_in_epoch, weightless
from stillhouse.errors import UserError
from stillhouse.run import Run


def _record(prompt: list[int], completion: list[int]) -> dict[str, Any]:
    return {
        "prompt_token_ids": prompt,
        "completion_token_ids": completion,
        "top_ids": [[token, token + 1] for token in completion[:-1]] + [[completion[-1]]],
        "top_logprobs": [[-0.1, -2.4] for _ in completion[:-1]] + [[0.0]],
    }


@given(
    records=st.integers(1, 60),
    workers=st.sampled_from([1, 2, 4]),
    micro=st.sampled_from([1, 2, 3]),
    repeat=st.sampled_from([1, 2, 3]),
    seed=st.integers(0, 100),
)
@settings(max_examples=80, deadline=None)
def test_an_epoch_sees_every_record_once(records: int, workers: int, micro: int, repeat: int, seed: int) -> None:
    lengths = [(7 * i) % 11 + 1 for i in range(records)]
    batch_size = workers * micro * repeat
    steps = steps_in_epoch(records, batch_size)
    for epoch in range(2):
        seen: Counter[int] = Counter()
        for step in range(epoch * steps, (epoch + 1) * steps):
            chosen = step_records(
                lengths, step, batch_size=batch_size, workers=workers, micro_batch_size=micro, seed=seed
            )
            assert len(chosen) == repeat, "every step has as many micro-batches, so that no worker waits for ever"
            assert all(len(part) <= micro for micro_batch in chosen for part in micro_batch)
            seen.update(i for micro_batch in chosen for part in micro_batch for i in part)
        assert seen == Counter(range(records))


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    settings_ = {"batch_size": 8, "workers": 2, "micro_batch_size": 4}
    lengths = list(range(1, 41))

    def epoch(number: int, seed: int) -> list[Any]:
        return [step_records(lengths, 5 * number + step, **settings_, seed=seed) for step in range(5)]

    assert epoch(0, 1) == epoch(0, 1)
    assert epoch(0, 1) != epoch(1, 1)
    assert epoch(0, 1) != epoch(0, 2)


def test_one_worker_and_two_see_the_same_records_at_every_step() -> None:
    lengths = [(5 * i) % 13 + 1 for i in range(30)]

    def seen(workers: int, micro: int) -> list[list[int]]:
        steps = [
            step_records(lengths, step, batch_size=8, workers=workers, micro_batch_size=micro, seed=3)
            for step in range(4)
        ]
        return [sorted(i for micro_batch in step for part in micro_batch for i in part) for step in steps]

    assert seen(1, 8) == seen(2, 4) == seen(2, 2)


def test_collate_puts_loss_on_the_positions_that_predict_the_completion() -> None:
    records = [_record([5, 6, 7], [10, 2]), _record([8], [11, 12, 2])]

    batch = collate(records, pad_id=0)

    assert batch.input_ids.tolist() == [[5, 6, 7, 10, 2], [8, 11, 12, 2, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]
    assert batch.rows.tolist() == [0, 0, 1, 1, 1]
    assert batch.columns.tolist() == [2, 3, 0, 1, 2]
    assert batch.targets.ids.tolist() == [10, 2, 11, 12, 2]
    following = batch.input_ids[batch.rows, batch.columns + 1]
    assert following.tolist() == batch.targets.ids.tolist(), "each position predicts the next token"
    assert batch.targets.top_ids[0].tolist() == [10, 11]
    assert torch.isneginf(batch.targets.top_logprobs[1, 1]), "the end of the sequence has one entry"
    assert weightless(batch).targets.weights.sum() == 0


def test_a_truncated_completion_teaches_no_end() -> None:
    truncated = _record([5, 6], [10, 11])

    batch = collate([truncated, _record([5, 6, 7, 8], [10, 2])], pad_id=2)

    own = batch.rows == 0
    assert 2 not in batch.targets.ids[own].tolist(), "the padding after it is the end token, and carries no loss"


def test_records_that_do_not_fit_are_counted_or_refused(tmp_path: Any) -> None:
    import pyarrow

    from stillhouse.signal.schema import write_table

    run = Run.open(str(tmp_path))
    rows = [_record([1] * 5, [10, 2]), _record([1] * 50, [10, 2])]
    run.storage.write("dataset/train.parquet", write_table(pyarrow.Table.from_pylist(rows), {}))

    fitting, left_out = load_split(run, "train", max_length=20)

    assert [length(record) for record in fitting] == [7]
    assert left_out == 1
    with pytest.raises(UserError, match="no train record fits into 4 tokens"):
        load_split(run, "train", max_length=4)
