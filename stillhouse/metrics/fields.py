"""JSON answers field by field: validity, exact match, and precision, recall and F1 over the leaves.

An object is flattened to its leaves, each a path and a scalar: `{"who": {"name": "A"}, "tags": ["x", "y"]}` has
`who.name` once and `tags[]` twice. Lists are multisets: an order that does not matter costs nothing, and an item that
is missing does not make all after it wrong. The price is that items of a list of objects are not kept apart, so that
two that swap their prices go unnoticed here; the exact match of the whole answer sees it. Scalars are equal as JSON has
them: 1 and 1.0 are, 1 and true or "1" are not. An empty list or object is a leaf of its own.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from stillhouse.metrics.estimate import Estimate, proportion

Leaf = tuple[str, str]
"""A path, and the value in a form that is equal exactly when the value is."""


class FieldScore(BaseModel):
    """One field, over the records where the reference or the answer has it; a share of nothing is 0."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    path: str = Field(description="Keys with dots between them, `[]` for the items of a list; empty: the whole answer.")
    exact: Estimate = Field(description="Share of the records in which all of its values are the reference's.")
    precision: float = Field(ge=0, le=1, description="Share of the answers' values that are in the reference.")
    recall: float = Field(ge=0, le=1, description="Share of the reference's values that are in the answers.")
    f1: float = Field(ge=0, le=1, description="Harmonic mean of the two.")


class JsonQuality(BaseModel):
    """Answers of a `json` task held against a reference."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    validity: Estimate = Field(description="Share of answers that are JSON and satisfy the schema.")
    exact: Estimate = Field(description="Share of answers that are the reference as a whole, lists in their order.")
    precision: float = Field(ge=0, le=1, description="Over all leaves of all records.")
    recall: float = Field(ge=0, le=1, description="Over all leaves of all records.")
    micro_f1: float = Field(ge=0, le=1, description="Over all leaves of all records.")
    macro_f1: float = Field(ge=0, le=1, description="Mean F1 of the fields.")
    fields: tuple[FieldScore, ...] = Field(description="By path, in alphabetical order.")


def json_quality(answers: Sequence[str | None], reference: Sequence[str]) -> JsonQuality:
    """Validity, exact match and fields of answers in graded form (canonical JSON; None: outside the contract).

    An answer outside the contract has no leaves: it costs recall alone. Raises ValueError when the lengths differ,
    there are no records, or a reference is not JSON.
    """
    if not reference:
        raise ValueError("There are no records to compare.")
    right: Counter[str] = Counter()
    given: Counter[str] = Counter()
    wanted: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    same: Counter[str] = Counter()
    for answer, truth in zip(answers, reference, strict=True):
        ours, theirs = leaves(answer), leaves(truth)
        of_ours, of_theirs, of_both = (_by_path(found) for found in (ours, theirs, ours & theirs))
        given.update(of_ours)
        wanted.update(of_theirs)
        right.update(of_both)
        paths = {*of_ours, *of_theirs}
        seen.update(paths)
        same.update(path for path in paths if of_ours[path] == of_theirs[path] == of_both[path])
    fields = tuple(
        FieldScore(
            path=path, exact=proportion(same[path], seen[path]), **_scores(right[path], given[path], wanted[path])
        )
        for path in sorted(seen)
    )
    whole = _scores(right.total(), given.total(), wanted.total())
    n = len(reference)
    return JsonQuality(
        validity=proportion(sum(answer is not None for answer in answers), n),
        exact=proportion(sum(answer == truth for answer, truth in zip(answers, reference, strict=True)), n),
        precision=whole["precision"],
        recall=whole["recall"],
        micro_f1=whole["f1"],
        macro_f1=sum(field.f1 for field in fields) / len(fields),
        fields=fields,
    )


def leaf_counts(answers: Sequence[str | None], reference: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each record the leaves that are right, that the answer has, and that the reference has; int64 [n] each."""
    counts = []
    for answer, truth in zip(answers, reference, strict=True):
        ours, theirs = leaves(answer), leaves(truth)
        counts.append(((ours & theirs).total(), ours.total(), theirs.total()))
    right, given, wanted = np.array(counts, dtype=np.int64).reshape(-1, 3).T
    return right, given, wanted


def micro_f1(right: np.ndarray, given: np.ndarray, wanted: np.ndarray, *, counts: np.ndarray) -> np.ndarray:
    """F1 [...] over all leaves, from the columns [kinds] of `leaf_counts`, each of which occurs `counts` [..., kinds]
    times; for resampling. No leaves at all: 0."""
    found: np.ndarray = 2 * (counts @ right) / np.maximum(1, counts @ given + counts @ wanted)
    return found


def leaves(answer: str | None) -> Counter[Leaf]:
    """The leaves of a JSON text, with how often each occurs; none for None. Raises ValueError for what is not JSON."""
    return Counter() if answer is None else Counter(_walk(json.loads(answer), ""))


def _walk(value: Any, path: str) -> Iterator[Leaf]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            # A dot inside a key is no step.
            name = key.replace("\\", "\\\\").replace(".", "\\.")
            yield from _walk(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and value:
        for inner in value:
            yield from _walk(inner, f"{path}[]")
    elif isinstance(value, float) and value.is_integer():
        yield path, str(int(value))
    else:
        yield path, json.dumps(value)


def _by_path(found: Counter[Leaf]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for (path, _), count in found.items():
        counts[path] += count
    return counts


def _scores(right: int, given: int, wanted: int) -> dict[str, float]:
    return {
        "precision": right / given if given else 0.0,
        "recall": right / wanted if wanted else 0.0,
        "f1": 2 * right / (given + wanted) if given + wanted else 0.0,
    }
