"""Minutes of a review."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from stillhouse.review.effort import minutes
from stillhouse.review.judgement import Judgement

_BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def judged(reviewer: str, *seconds: float) -> list[Judgement]:
    return [
        Judgement(id=str(i), content="", reviewer=reviewer, verdict="accept", at=_BEGAN + timedelta(seconds=second))
        for i, second in enumerate(seconds)
    ]


def test_time_between_judgements_counts_and_pauses_do_not() -> None:
    assert minutes([]) is None
    assert minutes(judged("ada", *range(0, 600, 10))) == pytest.approx(10)
    # Two sittings of 30 judgements, 10 s each.
    assert minutes(judged("ada", *range(0, 300, 10), *range(86_400, 86_700, 10))) == pytest.approx(10)


def test_reviewers_work_side_by_side() -> None:
    both = [*judged("ada", 0, 60, 120), *judged("bob", 0, 60, 120)]
    assert minutes(both) == pytest.approx(6)
    assert minutes(reversed(both)) == pytest.approx(6)


def test_a_file_that_was_read_took_nobody_at_the_screen() -> None:
    assert minutes(judged("ada", 5)) == 0
    assert minutes(judged("ada", *[5] * 100)) == 0
