"""What any student has to beat on a `choices` task, trained on what the student was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from stillhouse.metrics import Against
from stillhouse.metrics.baselines import majority_answers, tfidf_answers
from stillhouse.metrics.words import words
from stillhouse.report.part import Part


class Baseline(Part):
    """A baseline, and what it learned from."""

    who: str = Field(description="majority, tfidf or tfidf_gold.")
    trained_on: Against = Field(description="Whose answers to the train split it learned.")
    train_n: int = Field(gt=0, description="Train records with such an answer.")
    label: str | None = Field(default=None, description="Of the majority class: the answer that it always gives.")


@dataclass(frozen=True)
class TrainSplit:
    """The train split as a baseline sees it: texts, and answers in graded form, None where there is none."""

    texts: Sequence[str]
    teacher: Sequence[str | None]
    gold: Sequence[str | None]


def baseline_answers(train: TrainSplit, test_texts: Sequence[str]) -> dict[Baseline, list[str]]:
    """Each baseline's answers to the test records; none where nobody answered the train split or no text has a word.

    The majority class is gold's where the train split has gold. TF-IDF with logistic regression learns the teacher's
    answers, as the student did, and gold by itself where there is gold.
    """
    found: dict[Baseline, list[str]] = {}
    sources: dict[Against, Sequence[str | None]] = {"gold": train.gold, "teacher": train.teacher}
    labelled: dict[Against, int] = {name: sum(one is not None for one in source) for name, source in sources.items()}
    common: Against = "gold" if labelled["gold"] else "teacher"
    if labelled[common]:
        always = majority_answers(sources[common], test_texts)
        told = Baseline(who="majority", trained_on=common, train_n=labelled[common], label=always[0])
        found[told] = always
    students: dict[str, Against] = {"tfidf": "teacher", "tfidf_gold": "gold"}
    for who, source in students.items():
        known = (text for text, label in zip(train.texts, sources[source], strict=True) if label is not None)
        if any(map(words, known)):
            baseline = Baseline(who=who, trained_on=source, train_n=labelled[source])
            found[baseline] = tfidf_answers(train.texts, sources[source], test_texts)
    return found
