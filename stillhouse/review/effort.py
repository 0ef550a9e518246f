"""How long people sat over a review, from when they judged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import timedelta
from itertools import pairwise

from stillhouse.review.judgement import Judgement

_PAUSE = timedelta(minutes=5)
"""Longer than this between two judgements, and the reviewer was away."""


def minutes(judgements: Iterable[Judgement]) -> float | None:
    """Minutes that all reviewers together spent; None where nobody judged.

    The time from one judgement of a reviewer to the next, but for pauses. What comes first after a pause counts as long
    as an average one. Judgements that were read from a file have one time and count for nothing.
    """
    times = defaultdict(list)
    for one in judgements:
        times[one.reviewer].append(one.at)
    if not times:
        return None
    total = timedelta()
    for when in times.values():
        gaps = [later - earlier for earlier, later in pairwise(sorted(when))]
        worked = [gap for gap in gaps if gap <= _PAUSE]
        sittings = 1 + len(gaps) - len(worked)
        if worked:
            total += sum(worked, timedelta()) * (1 + sittings / len(worked))
    return total.total_seconds() / 60
