"""Splits: what the threshold and the report rest on."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.curation.splits import SPLITS, assign_splits
from stillhouse.errors import UserError

SHARES = {"validation": 0.05, "calibration": 0.15, "test": 0.15}
ALL_SHARES = {**SHARES, "train": 0.65}

seeds = st.integers(0, 2**31)
group_sizes = st.lists(st.integers(1, 12), min_size=100, max_size=150)


def scattered(sizes: list[int], seed: int) -> list[int]:
    """The group of each record, in no order."""
    groups = [group for group, size in enumerate(sizes) for _ in range(size)]
    random.Random(seed).shuffle(groups)
    return groups


@given(seeds, group_sizes)
def test_a_group_stands_in_one_split(seed: int, sizes: list[int]) -> None:
    groups = scattered(sizes, seed)
    strata = random.Random(seed).choices("abc", k=len(groups))
    splits = assign_splits(groups, strata, shares=SHARES, seed=seed)
    assert len(set(zip(groups, splits, strict=True))) == len(sizes)


@given(seeds, group_sizes)
def test_shares_are_kept_to_within_the_largest_group(seed: int, sizes: list[int]) -> None:
    groups = scattered(sizes, seed)
    counts = Counter(assign_splits(groups, ["x"] * len(groups), shares=SHARES, seed=seed))
    for split, share in ALL_SHARES.items():
        assert abs(counts[split] - share * len(groups)) <= max(sizes) + 1


@given(seeds, st.lists(st.integers(1, 300), min_size=1, max_size=8))
def test_every_answer_has_its_share_in_every_split(seed: int, sizes: list[int]) -> None:
    sizes = [*sizes, 100]
    strata = [str(i) for i, size in enumerate(sizes) for _ in range(size)]
    splits = assign_splits(range(len(strata)), strata, shares=SHARES, seed=seed)
    for i, size in enumerate(sizes):
        counts = Counter(split for split, stratum in zip(splits, strata, strict=True) if stratum == str(i))
        for split, share in ALL_SHARES.items():
            assert abs(counts[split] - share * size) <= 3


def test_answers_too_rare_for_every_split_are_spread() -> None:
    # 300 answers of two records each: in no answer's records is there room for a test record by itself.
    strata = [str(i // 2) for i in range(600)]
    in_test = Counter[str]()
    for seed in range(40):
        splits = assign_splits(range(600), strata, shares=SHARES, seed=seed)
        counts = Counter(splits)
        assert all(abs(counts[split] - share * 600) <= 3 for split, share in ALL_SHARES.items())
        in_test.update(stratum for split, stratum in zip(splits, strata, strict=True) if split == "test")
    # Over the seeds every answer is tested at times, and none always: 12 of 80 records are expected.
    assert len(in_test) == 300
    assert max(in_test.values()) < 30


@given(seeds, group_sizes, st.integers(0, 40))
def test_what_the_teacher_has_seen_is_trained_on_and_the_others_make_up_for_it(
    seed: int, sizes: list[int], seen: int
) -> None:
    groups = scattered(sizes, seed)
    strata = random.Random(seed).choices("abc", k=len(groups))
    splits = assign_splits(groups, strata, shares=SHARES, seed=seed, train_only=range(seen))
    assert {split for split, group in zip(splits, groups, strict=True) if group < seen} <= {"train"}
    counts = Counter(splits)
    largest = sum(sizes[:seen])
    if largest < 0.4 * len(groups):
        for split, share in ALL_SHARES.items():
            assert abs(counts[split] - share * len(groups)) <= 3 * max(sizes) + 1


def test_the_seed_decides() -> None:
    groups, strata = range(200), ["a", "b"] * 100
    first = assign_splits(groups, strata, shares=SHARES, seed=1)
    assert assign_splits(groups, strata, shares=SHARES, seed=1) == first
    assert assign_splits(groups, strata, shares=SHARES, seed=2) != first


@given(seeds)
def test_fifty_records_are_enough(seed: int) -> None:
    splits = assign_splits(range(50), [str(i % 7) for i in range(50)], shares=SHARES, seed=seed)
    assert set(splits) == set(SPLITS)


@pytest.mark.parametrize("groups", [[0] * 60, [0] * 58 + [1, 2], [0, 1, 2]])
def test_too_few_groups_are_an_error(groups: list[int]) -> None:
    with pytest.raises(UserError, match="too few distinct records to split: none is left for"):
        assign_splits(groups, ["x"] * len(groups), shares=SHARES, seed=0)
