"""From two finished runs to a `Comparison`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stillhouse.compare.model import Changed, Comparison, ScorePair, Side
from stillhouse.compare.tested import Answered, Tested, read_tested
from stillhouse.errors import UserError
from stillhouse.metrics import Against
from stillhouse.metrics.comparison import Difference, differences, metrics_of
from stillhouse.recipe import Task
from stillhouse.report.side_by_side import Embed, cosine_of
from stillhouse.run import Run

_WHO = ("teacher", "student", "cascade")


def compare(first: Run, second: Run, *, embed: Embed | None = None) -> Comparison:
    """Two finished runs of one task.

    Args:
        embed: for texts; None: their similarity is not compared.

    Raises:
        UserError: a run has not been evaluated, or the tasks are different ones.
    """
    one, other = read_tested(first), read_tested(second)
    _require_one_task(first.uri, one.recipe.task, second.uri, other.recipe.task)
    common = sorted(
        record for record, answered in one.answers.items() if _same_record(answered, other.answers.get(record))
    )
    found, remarks = _differences(one, other, common, embed)
    return Comparison(
        first=_side(one, first),
        second=_side(other, second),
        scores=tuple(_scores(one, other)),
        common_n=len(common),
        differences=tuple(found),
        recipe=tuple(_changed(_flat(one.recipe.model_dump(mode="json")), _flat(other.recipe.model_dump(mode="json")))),
        lineage=tuple(_changed(_lineage(one), _lineage(other))),
        remarks=tuple(remarks),
    )


def _require_one_task(first: str, one: Task, second: str, other: Task) -> None:
    """The contract must be the same; another prompt is one of the things that two runs may try."""
    contracts = {
        "kinds": (one.kind, other.kind),
        "choices": ({choice.strip() for choice in one.choices}, {choice.strip() for choice in other.choices}),
        "JSON schemas": (one.json_schema, other.json_schema),
    }
    for what, (ours, theirs) in contracts.items():
        if ours != theirs:
            raise UserError(
                f"{first} and {second} have different tasks (other {what} of answers), so that their numbers cannot be"
                " compared"
            )


def _same_record(ours: Answered, theirs: Answered | None) -> bool:
    return theirs is not None and (ours.text, ours.gold) == (theirs.text, theirs.gold)


def _differences(
    one: Tested, other: Tested, common: Sequence[str], embed: Embed | None
) -> tuple[list[Difference], list[str]]:
    """The second's minus the first's, of everyone and by every metric; and what could not be compared."""
    if not common:
        return [], [
            "The two runs tested on different records, so their differences are not paired: look at both intervals."
        ]
    remarks = []
    if len(common) < max(len(one.answers), len(other.answers)):
        remarks.append(
            f"The runs have {len(common)} test records in common, of {len(one.answers)} and {len(other.answers)}:"
            " differences are on those alone."
        )
    ours, theirs = ([side.answers[record] for record in common] for side in (one, other))
    references: dict[Against, list[str | None]] = {}
    if any(answered.gold is not None for answered in ours):
        references["gold"] = [answered.gold for answered in ours]
    if all(a.teacher == b.teacher for a, b in zip(ours, theirs, strict=True)):
        references["teacher"] = [answered.teacher for answered in ours]
    else:
        remarks.append(
            "The teachers answered otherwise, so agreement with them is not compared record by record"
            f"{'' if references else ', and without gold nothing is'}."
        )
    task = one.recipe.task
    everybody = [[getattr(answered, who) for answered in (*ours, *theirs)] for who in (*_WHO, "gold")]
    metrics = metrics_of(
        task.kind,
        [choice.strip() for choice in task.choices],
        cosine=cosine_of(embed, everybody) if task.kind == "text" and embed is not None else None,
    )
    found = []
    for against, reference in references.items():
        for who in _WHO:
            if who == against:
                continue
            answers = {"second": [getattr(a, who) for a in theirs], "first": [getattr(a, who) for a in ours]}
            paired = differences(
                answers,
                reference,
                against=against,
                metrics=metrics,
                pairs=[("second", "first")],
                seed=one.recipe.seed,
            )
            found += [each.model_copy(update={"of": who, "minus": who}) for each in paired]
    return found, remarks


def _side(tested: Tested, run: Run) -> Side:
    report = tested.report
    calibration = report.release.calibration
    return Side(
        run=run.uri,
        teacher=report.models.teacher,
        student=report.models.student,
        verdict=report.verdict,
        released=report.released,
        promise=report.release.promise,
        threshold=calibration.threshold,
        alpha=calibration.alpha,
        against=report.release.against,
        fallback_rate=report.release.fallback_rate,
        alone_error=report.release.alone_error,
        costs=report.spending.per_million,
        test_n=report.test_n,
        gold_n=report.gold_n,
    )


def _scores(one: Tested, other: Tested) -> Iterator[ScorePair]:
    rows = [
        {(row.who, score.metric, score.against): score.measured for row in side.rows for score in row.scores}
        for side in (one.report.side_by_side, other.report.side_by_side)
    ]
    for who, metric, against in dict.fromkeys((*rows[0], *rows[1])):
        first, second = (found.get((who, metric, against)) for found in rows)
        yield ScorePair(who=who, metric=metric, against=against, first=first, second=second)


def _lineage(tested: Tested) -> dict[str, str]:
    lineage = tested.report.lineage
    return {**{f"{name}, sha256": value for name, value in lineage.hashes.items()}, **lineage.versions}


def _flat(value: Any, path: str = "") -> dict[str, str]:
    """Leaves by their dotted keys; lists are leaves."""
    if isinstance(value, dict) and value:
        return {key: leaf for name, inner in value.items() for key, leaf in _flat(inner, f"{path}.{name}").items()}
    return {path.removeprefix("."): value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}


def _changed(first: Mapping[str, str], second: Mapping[str, str]) -> Iterator[Changed]:
    for key in dict.fromkeys((*first, *second)):
        if first.get(key) != second.get(key):
            yield Changed(key=key, first=first.get(key), second=second.get(key))
