"""Answers among fixed labels: the confusion matrix, and each class by itself."""

from collections.abc import Sequence


def confusion(truth: Sequence[str | None], answers: Sequence[str | None], labels: Sequence[str]) -> list[list[int]]:
    """Counts [len(labels), len(labels) + 1]: rows are truth, columns the answers; the last column is "no
    label".

    An answer that is not in `labels` (or None) falls into the last column; a record whose truth is not in
    `labels` is left out.
    """
    position = {label: index for index, label in enumerate(labels)}
    counts = [[0] * (len(labels) + 1) for _ in labels]
    for true, answer in zip(truth, answers, strict=True):
        if true in position:
            column = len(labels) if answer is None else position.get(answer, len(labels))
            counts[position[true]][column] += 1
    return counts
