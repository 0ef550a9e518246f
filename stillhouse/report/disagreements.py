"""The twenty worst disagreements of student and teacher, and what differs between two answers."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field

from stillhouse.metrics import Prediction
from stillhouse.metrics.comparison import Cosine
from stillhouse.report.part import Part

WORST = 20

LONGEST = 4_000
"""Characters of an answer that are compared and shown: comparing takes the square of the words."""

_PIECES = re.compile(r"\s+|\w+|[^\w\s]")


class Disagreement(Part):
    """A test record on which the student differs from the teacher."""

    id: str
    text: str
    gold: str | None
    teacher: str | None
    student: str | None
    confidence: float = Field(ge=0, le=1)
    similarity: float | None = Field(default=None, description="Of texts: cosine of the two answers.")
    alone: bool = Field(description="Whether the policy would have sent the student's answer out.")


class Piece(NamedTuple):
    """A stretch of an answer."""

    text: str
    differs: bool


def worst(predictions: Sequence[Prediction], alone: np.ndarray, *, cosine: Cosine | None = None) -> list[Disagreement]:
    """The first are the worst: the most confident, which no threshold can catch; of texts the least alike.

    `alone` [n] bool says whose answers go out alone.
    """
    differing = [i for i, p in enumerate(predictions) if p.student is None or p.student != p.teacher]
    similarity: dict[int, float] = {}
    if cosine is not None:
        both = [i for i in differing if predictions[i].teacher is not None]
        found = cosine([predictions[i].student for i in both], [predictions[i].teacher or "" for i in both])
        similarity = dict(zip(both, found.tolist(), strict=True))
    differing.sort(key=lambda i: (similarity.get(i, 0.0), -predictions[i].confidence, predictions[i].id))
    return [
        Disagreement(
            id=p.id,
            text=p.text,
            gold=p.gold,
            teacher=p.teacher,
            student=p.student,
            confidence=p.confidence,
            similarity=similarity.get(i),
            alone=bool(alone[i]),
        )
        for i in differing[:WORST]
        for p in (predictions[i],)
    ]


def marked(
    first: str | None, second: str | None, kind: Literal["choices", "json", "text"]
) -> tuple[list[Piece], list[Piece]]:
    """Two answers in pieces, each said to be in both or not; JSON one key a line. No answer has no pieces.

    An answer is cut after `LONGEST` characters. A choice differs as a whole.
    """
    one, other = (_shown(text, kind) for text in (first, second))
    if kind == "choices" or first is None or second is None:
        return [Piece(one, True)] * (first is not None), [Piece(other, True)] * (second is not None)
    ours, theirs = _PIECES.findall(one), _PIECES.findall(other)
    pieces: tuple[list[Piece], list[Piece]] = ([], [])
    for tag, a, b, c, d in SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes():
        for side, text in zip(pieces, ("".join(ours[a:b]), "".join(theirs[c:d])), strict=True):
            if text:
                side.append(Piece(text, tag != "equal"))
    return pieces


def _shown(text: str | None, kind: str) -> str:
    shown = text or ""
    if kind == "json" and shown:
        shown = json.dumps(json.loads(shown), indent=2, ensure_ascii=False, sort_keys=True)
    return shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}… (cut)"
