"""How often answers are right: accuracy, agreement, and the commonest answer."""

from collections import Counter
from collections.abc import Sequence

from stillhouse.metrics.estimate import Estimate, proportion


def accuracy(answers: Sequence[str | None], gold: Sequence[str | None]) -> Estimate | None:
    """Share of answers equal to gold, over the records that have gold; None when no record has.

    An answer of None (outside the contract) counts as wrong. Raises ValueError when the lengths differ.
    """
    judged = [answer == truth for answer, truth in zip(answers, gold, strict=True) if truth is not None]
    return proportion(sum(judged), len(judged)) if judged else None


def agreement(student: Sequence[str | None], teacher: Sequence[str | None]) -> Estimate:
    """Share of records on which both gave the same answer; None never agrees, not even with None."""
    same = [a is not None and a == b for a, b in zip(student, teacher, strict=True)]
    return proportion(sum(same), len(same))


def majority(labels: Sequence[str | None]) -> tuple[str, Estimate] | None:
    """The most common label and how often always answering it would be right; None when there is no label.

    Of equally common labels the first in alphabetical order, so that a report is reproducible.
    """
    counts = Counter(label for label in labels if label is not None)
    if not counts:
        return None
    label, count = min(counts.items(), key=lambda item: (-item[1], item[0]))
    return label, proportion(count, counts.total())
