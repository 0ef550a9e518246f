"""The dataset by index: what is kept of a record, what carries which loss, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import torch

from ray_jobs.train import records
from ray_jobs.train.batches import collate
from ray_jobs.train.records import Split, Wanted, unpack
from stillhouse.data import REVIEWER, Record
from stillhouse.errors import UserError
from stillhouse.losses.mix import Objective, distillation_loss
from stillhouse.run import Run
from stillhouse.signal.schema import Completion, read_table, to_row, to_table, write_table
from stillhouse.signal.sparse import SparseSignal


def _row(prompt: list[int], completion: list[int], **changes: Any) -> dict[str, Any]:
    signal = SparseSignal.of(
        [[token, token + 1] for token in completion[:-1]] + [[token] for token in completion[-1:]],
        [[-0.1, -2.4] for _ in completion[:-1]] + [[0.0] for _ in completion[-1:]],
    )
    told = {"signal": signal, "finish_reason": "stop", "gold": None, "tokens": completion, **changes}
    return {
        **to_row(
            Record(f"record-{prompt[0]}", 0, {}, told["gold"]),
            Completion(prompt, "", told["tokens"], told["finish_reason"], None, told["signal"]),
        )
    }


def _run(folder: Path, *rows: dict[str, Any]) -> Run:
    run = Run.open(str(folder / "run"))
    run.storage.write("dataset/train.parquet", write_table(to_table(rows), {}))
    return run


def _split(folder: Path, *rows: dict[str, Any], **wanted: Any) -> Split:
    unpack(_run(folder, *rows), "train", folder / "train", Wanted(**{"signal": True, "max_length": 20, **wanted}))
    return Split(folder / "train")


def test_records_come_by_index_whatever_batch_they_were_unpacked_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "_AT_ONCE", 3)
    split = _split(tmp_path, *(_row([i] * (i + 1), [10 + i, 2]) for i in range(8)))

    assert len(split) == 8
    assert split.lengths.tolist() == [i + 3 for i in range(8)]
    assert split.longest_completion == 2
    assert split.largest == 18, "an entry of the signal counts too"
    for i, example in zip((6, 0, 3), split.examples([6, 0, 3]), strict=True):
        assert example.prompt.tolist() == [i] * (i + 1)
        assert example.completion.tolist() == [10 + i, 2]
        assert example.signal is not None
        assert example.signal.at(0)[0].tolist() == [10 + i, 11 + i]
        assert example.cross_entropy
        assert len(example) == i + 3
    assert split.examples([]) == []


def test_a_split_is_unpacked_once(tmp_path: Path) -> None:
    run, wanted = _run(tmp_path, _row([1], [10, 2])), Wanted(signal=True, max_length=20)
    unpack(run, "train", tmp_path / "train", wanted)
    run.storage.delete("dataset/train.parquet")

    unpack(run, "train", tmp_path / "train", wanted)

    assert len(Split(tmp_path / "train")) == 1


def test_records_that_do_not_fit_are_counted_or_refused(tmp_path: Path) -> None:
    rows = [_row([1] * 5, [10, 2]), _row([1] * 50, [10, 2])]

    split = _split(tmp_path, *rows)

    assert split.lengths.tolist() == [7]
    assert split.left_out == 1
    with pytest.raises(UserError, match="no train record fits into 4 tokens"):
        _split(tmp_path / "again", *rows, max_length=4)
    assert not (tmp_path / "again" / "train").exists(), "nothing half done is left"


def test_captured_mass_is_the_mean_over_tokens(tmp_path: Path) -> None:
    half = SparseSignal.of([[10, 11], [2]], [[math.log(0.3), math.log(0.2)], [0.0]])
    whole = SparseSignal.of([[10, 11], [2]], [[math.log(0.75), math.log(0.25)], [0.0]])
    split = _split(tmp_path, _row([5], [10, 2], signal=half), _row([6], [10, 2], signal=whole))
    assert split.mass == pytest.approx((0.5 + 1 + 1 + 1) / 4)


def test_the_end_of_a_sequence_may_lack_its_distribution_and_is_learnt_from_its_token(tmp_path: Path) -> None:
    told = SparseSignal.of([[10, 11], []], [[-0.1, -2.4], []])
    split = _split(tmp_path, _row([7], [10, 2], signal=told))
    assert split.kd_tokens.tolist() == [1]
    assert split.ce_tokens.tolist() == [2]
    targets = collate(split.examples([0]), pad_id=0).targets
    logits = torch.randn(2, 20, requires_grad=True)
    objective = Objective(kd_weight=1.0, ce_weight=0.0, temperature=2.0)
    losses = distillation_loss(logits, targets, objective, kd_tokens=1, ce_tokens=2)
    losses.total.backward()
    assert losses.kd > 0
    assert logits.grad is not None
    assert logits.grad[0].abs().sum() > 0
    assert logits.grad[1].abs().sum() == 0


def test_gold_answers_carry_the_cross_entropy_where_they_are_not_the_teachers(tmp_path: Path) -> None:
    rows = [_row([5], [10, 2], gold="ten"), _row([6], [10, 2], gold="eleven"), _row([7], [10, 2])]

    split = _split(tmp_path, *rows, gold={"ten": [10, 2], "eleven": [11, 12, 2]}.__getitem__)

    same, scored, gold, unlabelled = split.examples([0, 1, 2])
    assert (same.signal is not None, same.cross_entropy) == (True, True)
    assert (scored.signal is not None, scored.cross_entropy) == (True, False)
    assert (gold.completion.tolist(), gold.signal, gold.cross_entropy) == ([11, 12, 2], None, True)
    assert (unlabelled.signal is not None, unlabelled.cross_entropy) == (True, False)
    assert split.ce_tokens.tolist() == [2, 3, 0]
    assert split.lengths.tolist() == [3, 3 + 4, 3]


def test_gold_alone_leaves_out_what_has_none(tmp_path: Path) -> None:
    rows = [_row([5], [10, 2], gold="ten", signal=None), _row([7], [10, 2], signal=None)]

    split = _split(tmp_path, *rows, signal=False, gold=lambda _: [10, 2])

    assert len(split) == 1
    assert split.left_out == 1
    (example,) = split.examples([0])
    assert (example.signal, example.cross_entropy) == (None, True)
    with pytest.raises(UserError, match=r"no train record has a gold answer of at most 20 tokens: see `data.label`"):
        _split(tmp_path / "none", rows[1], signal=False, gold=lambda _: [10, 2])


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
        ({"tokens": []}, "no prompt or no completion"),
    ],
)
def test_a_record_without_the_teachers_signal_is_refused(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        _split(tmp_path, _row([5, 6], [10, 2]), _row([7], [10, 2], **changes))
    assert str(caught.value).startswith("dataset/train.parquet, record record-7 ")


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the dataset's train split is empty: curate again"):
        _split(tmp_path)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    run = _run(tmp_path, *(_row([i], [10, 2]) for i in range(50)))
    data = bytearray(run.storage.read("dataset/train.parquet"))
    data[40] ^= 0xFF
    run.storage.write("dataset/train.parquet", bytes(data))
    with pytest.raises(UserError, match=r"dataset/train.parquet is damaged .*: curate again"):
        unpack(run, "train", tmp_path / "train", Wanted(signal=True, max_length=20))


@pytest.mark.parametrize("mass", [math.nan, 7.0])
def test_values_that_are_no_probabilities_are_refused(tmp_path: Path, mass: float) -> None:
    run = _run(tmp_path, _row([5, 6], [10, 2]))
    table = read_table(run.storage.read("dataset/train.parquet"), name="train")
    masses = pyarrow.array([[mass, 1.0]], table.schema.field("mass").type)
    table = table.set_column(table.column_names.index("mass"), "mass", masses)
    run.storage.write("dataset/train.parquet", write_table(table, {}))

    with pytest.raises(UserError, match="record record-5 holds values that are no logprobs: capture again"):
        unpack(run, "train", tmp_path / "train", Wanted(signal=True, max_length=20))


def test_text_alone_is_read_only_where_no_distribution_is_wanted(tmp_path: Path) -> None:
    split = _split(tmp_path, _row([5, 6], [10, 2], signal=None), signal=False)

    targets = collate(split.examples([0]), pad_id=0).targets
    assert targets.ids.tolist() == [10, 2]
    assert targets.top_ids.shape == (2, 0)
    objective = Objective(kd_weight=0, ce_weight=1, temperature=1)
    losses = distillation_loss(torch.zeros(2, 12), targets, objective, kd_tokens=0, ce_tokens=2)
    assert losses.total == pytest.approx(math.log(12))
    assert losses.kd == 0


def test_a_reviewers_correction_carries_cross_entropy_alone(tmp_path: Path) -> None:
    corrected = {**_row([7], [12, 2], signal=None, gold="twelve"), "teacher": REVIEWER}
    split = _split(tmp_path, _row([5], [10, 2]), corrected)

    teachers, reviewers = split.examples([0, 1])
    assert (teachers.signal is not None, teachers.cross_entropy) == (True, True)
    assert (reviewers.completion.tolist(), reviewers.signal, reviewers.cross_entropy) == ([12, 2], None, True)
    assert split.kd_tokens.tolist() == [2, 0]
    assert split.ce_tokens.tolist() == [2, 2]

    gold = _split(tmp_path / "gold", _row([5], [10, 2]), corrected, gold={"twelve": [12, 2]}.__getitem__)
    (only,) = gold.examples([1])
    assert (only.completion.tolist(), only.signal) == ([12, 2], None)
