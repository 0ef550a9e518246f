"""Batches: every record once an epoch, the same ones after a resume, and loss where it belongs."""

from __future__ import annotations

import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs.train.batches import Sampler, captured_mass, collate, length, load_split, shares, weightless
from stillhouse.data import Record as Data
from stillhouse.errors import UserError
from stillhouse.losses.mix import distillation_loss
from stillhouse.run import Run
from stillhouse.signal.schema import Completion, read_table, to_row, to_table, write_table
from stillhouse.signal.sparse import SparseSignal


def _record(prompt: list[int], completion: list[int]) -> dict[str, Any]:
    return {
        "id": f"record-{prompt[0]}",
        "prompt_token_ids": prompt,
        "completion_token_ids": completion,
        "signal": SparseSignal.of(
            [[token, token + 1] for token in completion[:-1]] + [[completion[-1]]],
            [[-0.1, -2.4] for _ in completion[:-1]] + [[0.0]],
        ),
    }


@given(
    records=st.integers(1, 200),
    workers=st.sampled_from([1, 2, 4]),
    micro=st.sampled_from([1, 2, 3]),
    repeat=st.sampled_from([1, 2, 3]),
    seed=st.integers(0, 100),
)
@settings(max_examples=80, deadline=None)
def test_an_epoch_sees_every_record_once(records: int, workers: int, micro: int, repeat: int, seed: int) -> None:
    batch_size = workers * micro * repeat
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


def test_captured_mass_is_the_mean_over_tokens() -> None:
    half = SparseSignal.of([[10, 11], [2]], [[math.log(0.3), math.log(0.2)], [0.0]])
    whole = SparseSignal.of([[10, 11], [2]], [[math.log(0.75), math.log(0.25)], [0.0]])
    assert captured_mass([{**_record([5], [10, 2]), "signal": signal} for signal in (half, whole)]) == pytest.approx(
        (0.5 + 1 + 1 + 1) / 4
    )


def _write(folder: Path, rows: list[dict[str, Any]]) -> Run:
    run = Run.open(str(folder))
    table = to_table(
        [
            to_row(
                Data(row["id"], i, {}, None),
                Completion(
                    row["prompt_token_ids"],
                    "",
                    row["completion_token_ids"],
                    row.get("finish_reason", "stop"),
                    None,
                    row["signal"],
                ),
            )
            for i, row in enumerate(rows)
        ]
    )
    run.storage.write("dataset/train.parquet", write_table(table, {}))
    return run


def test_records_that_do_not_fit_are_counted_or_refused(tmp_path: Path) -> None:
    run = _write(tmp_path, [_record([1] * 5, [10, 2]), _record([1] * 50, [10, 2])])

    fitting, left_out = load_split(run, "train", max_length=20)

    assert [length(record) for record in fitting] == [7]
    assert left_out == 1
    with pytest.raises(UserError, match="no train record fits into 4 tokens"):
        load_split(run, "train", max_length=4)


def test_the_end_of_a_sequence_may_lack_its_distribution_and_is_learnt_from_its_token(tmp_path: Path) -> None:
    told = SparseSignal.of([[10, 11], []], [[-0.1, -2.4], []])
    run = _write(tmp_path, [{**_record([7], [10, 2]), "signal": told}])
    (record,), _ = load_split(run, "train", max_length=20)
    targets = collate([record], pad_id=0).targets
    assert targets.ids.tolist() == [10, 2]
    logits = torch.randn(2, 20, requires_grad=True)
    losses = distillation_loss(logits, targets, kd_weight=1.0, ce_weight=0.0, temperature=2.0, tokens=2)
    losses.total.backward()
    assert torch.isfinite(losses.kd)
    assert losses.kd > 0
    assert logits.grad is not None
    assert logits.grad[0].abs().sum() > 0
    assert logits.grad[1].abs().sum() == 0


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"signal": None}, "lacks the teacher's logprobs of a token"),
        ({"signal": SparseSignal.of([[], [10, 11]], [[], [-0.1, -2.4]])}, "lacks the teacher's logprobs of a token"),
        (
            {"signal": SparseSignal.of([[10, 11], []], [[-0.1, -2.4], []]), "finish_reason": "length"},
            "lacks the teacher's logprobs of a token",
        ),
        ({"signal": SparseSignal.of([[10, 11]], [[-0.1, -2.4]])}, "lacks the teacher's logprobs of a token"),
        ({"completion_token_ids": []}, "no prompt or no completion"),
    ],
)
def test_a_record_without_the_teachers_signal_is_refused(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    run = _write(tmp_path, [_record([5, 6], [10, 2]), {**_record([7], [10, 2]), **changes}])

    with pytest.raises(UserError, match=told) as caught:
        load_split(run, "train", max_length=20)
    assert str(caught.value).startswith("dataset/train.parquet, record record-7 ")


@pytest.mark.parametrize("mass", [math.nan, 7.0])
def test_values_that_are_no_probabilities_are_refused(tmp_path: Path, mass: float) -> None:
    run = _write(tmp_path, [_record([5, 6], [10, 2])])
    table = read_table(run.storage.read("dataset/train.parquet"), name="train")
    masses = pyarrow.array([[mass, 1.0]], table.schema.field("mass").type)
    table = table.set_column(table.column_names.index("mass"), "mass", masses)
    run.storage.write("dataset/train.parquet", write_table(table, {}))

    with pytest.raises(UserError, match="record record-5 holds values that are no logprobs: capture again"):
        load_split(run, "train", max_length=20)


def test_text_alone_is_read_only_where_no_distribution_is_wanted(tmp_path: Path) -> None:
    run = _write(tmp_path, [{**_record([5, 6], [10, 2]), "signal": None}])

    (record,), _ = load_split(run, "train", max_length=20, with_signal=False)

    batch = collate([record], pad_id=0)
    assert batch.targets.ids.tolist() == [10, 2]
    assert batch.targets.top_ids.shape == (2, 0)
    losses = distillation_loss(torch.zeros(2, 12), batch.targets, kd_weight=0, ce_weight=1, temperature=1, tokens=2)
    assert losses.total == pytest.approx(math.log(12))
    assert losses.kd == 0
