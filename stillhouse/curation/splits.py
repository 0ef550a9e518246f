"""Splits by near-duplicate group, stratified by answer."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from stillhouse.errors import UserError

SPLITS = ("train", "validation", "calibration", "test")


def assign_splits(
    groups: Sequence[int],
    strata: Sequence[str],
    *,
    shares: Mapping[str, float],
    seed: int,
    train_only: Collection[int] = (),
) -> list[str]:
    """Put every group whole into one split, each split with about its share of every stratum.

    Group after group goes to the split that is furthest below its share. One stratum follows the other, so that answers
    too rare for a record in every split are spread as well, and the splits stay alike.

    Args:
        groups: [records], the near-duplicate group of each record.
        strata: [records], the answer of each record; a group counts for the stratum of its first record.
        shares: the shares of validation, calibration and test; train takes the rest.
        train_only: groups that go to train, whatever its share: the teacher knows their gold answers.

    Returns:
        [records], the split of each.

    Raises:
        UserError: a split would be empty.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for record, group in enumerate(groups):
        members[group].append(record)
    by_stratum: dict[str, list[int]] = defaultdict(list)
    for group, records in members.items():
        by_stratum[strata[records[0]]].append(group)
    draw = random.Random(seed)
    wanted = {**shares, "train": 1 - sum(shares.values())}
    lacking = {split: draw.uniform(-0.5, 0.5) for split in SPLITS}
    chosen = [""] * len(groups)
    strata_in_order = sorted(by_stratum)
    draw.shuffle(strata_in_order)
    for stratum in strata_in_order:
        order = by_stratum[stratum]
        draw.shuffle(order)
        # First, so that the others make up for them.
        order.sort(key=lambda group: group not in train_only)
        for group in order:
            for split, share in wanted.items():
                lacking[split] += share * len(members[group])
            most = "train" if group in train_only else max(SPLITS, key=lambda split: lacking[split])
            lacking[most] -= len(members[group])
            for record in members[group]:
                chosen[record] = most
    require_every_split(chosen)
    return chosen


def require_every_split(splits: Collection[str]) -> None:
    """See that no split is empty. Raises `UserError` naming one that is."""
    for split in SPLITS:
        if split not in splits:
            raise UserError(f"too few distinct records to split: none is left for {split}")


def lacking_answers(answers: Sequence[str], splits: Sequence[str]) -> dict[str, list[str]]:
    """The answers that no record of a split has though another split's have, by split.

    Args:
        answers: [records].
        splits: [records], the split of each.
    """
    there: dict[str, set[str]] = {split: set() for split in SPLITS}
    for answer, split in zip(answers, splits, strict=True):
        there[split].add(answer)
    every = set().union(*there.values())
    return {split: sorted(every - found) for split, found in there.items() if every - found}
