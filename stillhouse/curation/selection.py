"""What has become of each captured row on its way through curation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from stillhouse.curation.filters import FILTERS, REASONS
from stillhouse.curation.rows import Drop, Row

_ORDER = (*REASONS, *FILTERS, "duplicate", "near_duplicate", "semantic_duplicate", "extra", "rejected")


class Selection:
    """The captured rows, and which of them stay.

    Attributes:
        rows: [rows], all of them.
        drops: [rows], why each is dropped; None for those that stay.
        splits: [rows], the split of each that stays, once there are any.
        spared: by row, why it is to be dropped unless it is held out.
    """

    def __init__(self, rows: Sequence[Row], drops: Sequence[Drop | None]) -> None:
        self.rows = rows
        self.drops = list(drops)
        self.splits = [""] * len(rows)
        self.spared: dict[int, Drop] = {}

    def kept(self) -> list[int]:
        """The rows that stay."""
        return [i for i, drop in enumerate(self.drops) if drop is None]

    def placed(self) -> list[str]:
        """[rows], the split of each; empty for one that is dropped."""
        return [split if drop is None else "" for split, drop in zip(self.splits, self.drops, strict=True)]

    def reject(self, splits: Sequence[str]) -> None:
        """Drop the rows that have no split any more among `splits` [rows], once reviewers have said which."""
        for i in self.kept():
            if not splits[i]:
                self.drops[i] = Drop("rejected")

    def texts(self) -> dict[str, str]:
        """The records that stay, with their texts; one that has several completions stands here once."""
        return {self.rows[i].id: self.rows[i].text for i in self.kept()}

    def spare(self) -> None:
        """Take back what the recipe's own filters dropped: whether it is, is decided once there are splits."""
        self.spared = {i: drop for i, drop in enumerate(self.drops) if drop and _stage(drop.reason) in FILTERS}
        for i in self.spared:
            self.drops[i] = None

    def reasons(self) -> dict[str, int]:
        """How many rows each reason drops, in the order of the funnel. A filter with reasons of its own tells them in
        alphabetical order."""
        counts = Counter(drop.reason for drop in self.drops if drop is not None)
        return {reason: counts[reason] for reason in sorted(counts, key=lambda one: (_ORDER.index(_stage(one)), one))}


def _stage(reason: str) -> str:
    """The step of the funnel that a reason belongs to: `python: too old` is one of `python`."""
    return reason.split(":")[0]
