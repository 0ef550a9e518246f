"""What several reviewers say of one completion, taken together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from stillhouse.recipe import Task
from stillhouse.review.judgement import Judgement, standing
from stillhouse.task import answer

Key = tuple[str, str]
"""A record's id, and the hash of the prompt and completion that were judged."""


@dataclass(frozen=True)
class Outcome:
    """The majority's verdict; `disputed` is a tie, which counts as an error of the teacher until it is resolved.

    Attributes:
        correction: the right answer, for `correct`.
    """

    verdict: Literal["accept", "correct", "reject", "disputed"]
    correction: str | None = None

    @property
    def error(self) -> bool:
        """Whether the teacher counts as wrong."""
        return self.verdict != "accept"


def outcome(task: Task, judgements: Iterable[Judgement]) -> Outcome:
    """The outcome of one completion's judgements, one a reviewer.

    More than half decide whether it is right. Where it is wrong, it is corrected if more than half of those who say so
    give the same answer, and rejected else.
    """
    said = list(judgements)
    wrong = [each for each in said if each.verdict != "accept"]
    if 2 * len(wrong) < len(said):
        return Outcome("accept")
    if 2 * len(wrong) == len(said):
        return Outcome("disputed")
    answers = Counter(answer(task, each.correction) for each in wrong if each.correction is not None)
    for graded, count in answers.most_common(1):
        if 2 * count > len(wrong):
            written = (each.correction for each in wrong if each.correction is not None)
            return Outcome("correct", next(text for text in written if answer(task, text) == graded))
    return Outcome("reject")


def outcomes(task: Task, judgements: Iterable[Judgement]) -> dict[Key, Outcome]:
    """The outcome of everything that was judged."""
    return {key: outcome(task, said.values()) for key, said in standing(judgements).items()}


def settled(found: Mapping[Key, Outcome]) -> dict[Key, Outcome]:
    """Those that change the dataset: all but the disputed."""
    return {key: each for key, each in found.items() if each.verdict != "disputed"}
