"""Strata of a sample: by class, and within a class by length and by the teacher's confidence."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_LENGTHS = ("short", "medium", "long")
_CONFIDENCES = ("low confidence", "medium confidence", "high confidence")
_TERCILES = len(_LENGTHS)


@dataclass(frozen=True)
class Stratum:
    """Records that are drawn from together.

    Attributes:
        label: their class.
        name: the class, and what sets them apart within it.
        size: how many there are.
        drawn: how many of them are in the sample.
    """

    label: str
    name: str
    size: int
    drawn: int


def stratified(
    labels: Sequence[str], lengths: Sequence[int], confidences: Sequence[float | None], *, share: float
) -> list[tuple[str, str]]:
    """The stratum of each record, as (class, name).

    A class is cut at its own terciles, and only as far as its part of the sample has a record for each cell: else many
    small classes would make the sample as large as the data.

    Args:
        labels: [records], the class of each.
        lengths: [records].
        confidences: [records], None where the teacher told none.
        share: how much is to be drawn.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for i, label in enumerate(labels):
        members[label].append(i)
    found = [("", "")] * len(labels)
    for label, records in members.items():
        told = np.array([np.nan if confidences[i] is None else confidences[i] for i in records], np.float64)
        by_length = _named(np.array([lengths[i] for i in records], np.float64), _LENGTHS)
        by_confidence = _named(told, _CONFIDENCES) if np.isfinite(told).any() else [""] * len(records)
        expected = share * len(records)
        # What a teacher is unsure of is where its errors are: of two cuts that one matters more.
        cut_confidence = any(by_confidence) and expected >= _TERCILES
        cut_length = expected >= (_TERCILES**2 if cut_confidence else _TERCILES)
        for place, i in enumerate(records):
            parts = [by_length[place] if cut_length else "", by_confidence[place] if cut_confidence else ""]
            found[i] = (label, ", ".join(part for part in (label, *parts) if part))
    return found


def _named(values: NDArray[np.float64], names: Sequence[str]) -> list[str]:
    """The tercile of each value, by name; equal values are in the same one, and NaN is in none."""
    cuts = np.nanquantile(values, [1 / 3, 2 / 3])
    return [
        "unknown" if np.isnan(value) else names[int(np.searchsorted(cuts, value, side="right"))] for value in values
    ]


def allocated(sizes: Sequence[int], *, share: float) -> list[int]:
    """How many to draw from strata of such sizes: proportional by largest remainder, and at least one of each."""
    quotas = [share * size for size in sizes]
    drawn = [min(size, max(1, int(quota))) for size, quota in zip(sizes, quotas, strict=True)]
    lacking = round(sum(quotas)) - sum(drawn)
    open_ = [i for i, size in enumerate(sizes) if drawn[i] < size and quotas[i] > drawn[i]]
    for i in sorted(open_, key=lambda i: (drawn[i] - quotas[i], i))[: max(0, lacking)]:
        drawn[i] += 1
    return drawn
