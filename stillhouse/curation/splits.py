"""Splits by near-duplicate group, stratified by answer."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence

from stillhouse.errors import UserError

SPLITS = ("train", "validation", "calibration", "test")


def assign_splits(groups: Sequence[int], strata: Sequence[str], *, shares: Mapping[str, float], seed: int) -> list[str]:
    """Put every group whole into one split, each split with about its share of every stratum.

    Args:
        groups: [records], the near-duplicate group of each record.
        strata: [records], the answer of each record; a group counts for the stratum of its first record.
        shares: the shares of validation, calibration and test; train takes the rest.

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
    chosen = [""] * len(groups)
    for stratum in sorted(by_stratum):
        order = sorted(by_stratum[stratum])
        random.Random(f"{seed}/{stratum}").shuffle(order)
        size = sum(len(members[group]) for group in order)
        bounds, end = [], 0.0
        for split in ("test", "calibration", "validation"):
            end += shares[split] * size
            bounds.append((end, split))
        taken = 0
        for group in order:
            # The middle of the group decides, so that groups on a border go to the side where most of them lies.
            middle = taken + len(members[group]) / 2
            split = next((name for bound, name in bounds if middle <= bound), "train")
            for record in members[group]:
                chosen[record] = split
            taken += len(members[group])
    for split in SPLITS:
        if split not in chosen:
            raise UserError(f"too few distinct records to split: none is left for {split}")
    return chosen
