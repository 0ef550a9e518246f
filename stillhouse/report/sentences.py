"""The comparison in plain words: the verdict, and what makes it pointless."""

from __future__ import annotations

from collections.abc import Iterator

from stillhouse.metrics.non_inferiority import sentence
from stillhouse.report.baselines import Baseline
from stillhouse.report.side_by_side import Judged, SideBySide
from stillhouse.report.words import percent

_RIGHT = {
    "accuracy": "Right is the {reference}.",
    "exact_match": "Right is the {reference}, whole and exact.",
    "alike": "Right is a text whose MiniLM cosine with the {reference} is above 0.9.",
}


def verdict(found: SideBySide, *, released: bool) -> str:
    """Whether the cascade, where one is released, and the student alone are no worse than the teacher."""
    if not found.non_inferiority:
        return "No test record has an answer that models could be held against, so nothing can be said of them."
    told = [one for one in found.non_inferiority if released or one.who == "student"]
    # The same words are not said twice.
    right = _RIGHT[found.right_by].format(reference=_reference(found))
    return " ".join([*map(_judged, told), right])


def _reference(found: SideBySide) -> str:
    return "gold answer" if found.reference == "gold" else "teacher’s own answer"


def _judged(one: Judged) -> str:
    found = one.found
    if one.against == "gold":
        return sentence(found, first=one.who)
    same = "says the same as the teacher on" if one.metric == "alike" else "gives the teacher’s answer to"
    margin, sure = percent(found.margin), percent(found.level)
    measured = f"on {found.n:,} test records it differed on {percent(-found.difference)}"
    if found.verdict == "non-inferior":
        return f"The {one.who} {same} all but at most {margin} of requests, with {sure} confidence: {measured}."
    if found.verdict == "inferior":
        return (
            f"The {one.who} differs from the teacher on over {margin} of requests, with {sure} confidence: {measured}."
        )
    told = f"These test records cannot tell whether the {one.who} {same} all but {margin} of requests: {measured}."
    if found.records_needed is None:
        return f"{told} More such records would not show it."
    return f"{told} About {found.records_needed:,} would, if the rates stay what they are."


def alarms(found: SideBySide) -> list[str]:
    """A teacher that is no better than a baseline, said first."""
    teacher = found.row("teacher").get("accuracy", "gold")
    if teacher is None:
        return []
    beaten = [
        f"{told} ({percent(teacher.value)} against {percent(share)})"
        for told, share in _baselines(found, "gold")
        if teacher.value <= share
    ]
    if not beaten:
        return []
    beating = " and ".join(beaten)
    return [f"The teacher is no better than {beating}: there is little to distil, and the baseline costs nothing."]


def warnings(found: SideBySide) -> list[str]:
    """A student that is no better than a baseline, classes that do not occur, texts that are not alike."""
    told = []
    for against in dict.fromkeys((found.reference, "teacher")):
        student = found.row("student").get("accuracy", "gold" if against == "gold" else "teacher")
        beaten = [
            f"{name} ({percent(student.value)} against {percent(share)})"
            for name, share in _baselines(found, against)
            if student is not None and student.value <= share
        ]
        if beaten:
            what = "is right" if against == "gold" else "agrees with the teacher"
            told.append(f"The student {what} no more often than {' and '.join(beaten)}.")
    alike = found.similarity["student"] if found.similarity else None
    if alike is not None and not alike.reached:
        told.append(
            f"The student’s texts have a mean similarity of {alike.mean.value:.2f} with the {_reference(found)}, not"
            f" above the goal of {alike.goal:g}."
        )
    return told


def _baselines(found: SideBySide, against: str) -> Iterator[tuple[str, float]]:
    for baseline in found.baselines:
        measured = found.row(baseline.who).get("accuracy", "gold" if against == "gold" else "teacher")
        if measured is not None:
            yield baseline_name(baseline), measured.value


def baseline_name(baseline: Baseline) -> str:
    """A baseline in words."""
    if baseline.label is not None:
        return f"always answering “{baseline.label}”"
    learned = "gold" if baseline.trained_on == "gold" else "the teacher’s answers"
    return f"TF-IDF with logistic regression, trained on {learned}"
