"""The teacher's error on all records, estimated from those that were judged, with an interval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from stillhouse.metrics import Estimate
from stillhouse.review.strata import Stratum

_ALPHA = 0.05
"""What a 95% interval may miss, half of it on either side."""


def teacher_error(strata: Sequence[Stratum], judged: Sequence[tuple[int, bool]]) -> Estimate | None:
    """Share of wrong completions among all records of the strata; None where nothing is judged.

    The share is the post-stratified one: every stratum counts by its size, whatever part of its sample is judged.
    Strata without a judged record are pooled: with their class, or where all of that is unjudged, with the other
    classes of which little is. Within a pool a record counts for the records that it was drawn for.

    The interval is the exact one for a finite population (hypergeometric, both tails; Buonaccorsi 1987,
    The American Statistician 41:215), at the effective number of records: Kish's (Σw)² / Σw² for unequal weights, or
    p (1 − p) / var where the estimated variance is larger, after Korn and Graubard (1998, Survey Methodology 24:193).
    So it is honest for few errors and for none, and shrinks to a point when all records are judged.

    Args:
        strata: with their sizes, and how many were drawn from each.
        judged: (stratum, whether the teacher was wrong) of each judged record.
    """
    if not judged:
        return None
    index = np.array([stratum for stratum, _ in judged])
    wrong = np.array([error for _, error in judged], np.float64)
    pools = _pools(strata, Counter(index.tolist()))
    pool = pools[index]
    sizes = np.array([stratum.size for stratum in strata], np.float64)
    stands_for = sizes[index] / np.array([stratum.drawn for stratum in strata])[index]
    share = stands_for / np.bincount(pool, stands_for)[pool]  # of its pool
    weight = share * (np.bincount(pools, sizes) / sizes.sum())[pool]
    value = float(weight @ wrong)
    population = int(sizes.sum())
    n = population if len(judged) == population else _effective(weight, share, wrong, pool, value)
    low, high = _interval(value, min(n, population), population)
    return Estimate(value=min(max(value, 0.0), 1.0), low=low, high=high, n=len(judged))


def _pools(strata: Sequence[Stratum], judged: Counter[int]) -> NDArray[np.int64]:
    """[strata], the number of the pool that each belongs to; every pool has a judged record."""
    of_class: Counter[str] = Counter()
    gaps = {stratum.label for i, stratum in enumerate(strata) if not judged[i]}
    for i, count in judged.items():
        of_class[strata[i].label] += count
    names: list[object] = [("class", each.label) if each.label in gaps else i for i, each in enumerate(strata)]
    if poor := [each.label for each in strata if not of_class[each.label]]:
        # The least judged of the other classes takes them in.
        helper = min(of_class, key=lambda label: (of_class[label], label))
        merged = {*poor, helper}
        names = ["rest" if strata[i].label in merged else name for i, name in enumerate(names)]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names])


def _effective(
    weight: NDArray[np.float64],
    share: NDArray[np.float64],
    wrong: NDArray[np.float64],
    pool: NDArray[np.int64],
    value: float,
) -> int:
    """The number of records of a simple random sample that would tell as much; weights add up to one."""
    kish = 1 / float(weight @ weight)
    counts = np.bincount(pool)
    means = np.bincount(pool, share * wrong)
    # A pool with one judged record says nothing of its own variance: it is given that of all.
    single = counts[pool] == 1
    spread = np.where(
        single, value * (1 - value), (wrong - means[pool]) ** 2 * counts[pool] / np.maximum(counts[pool] - 1, 1)
    )
    variance = float(weight**2 @ spread)
    found = min(kish, value * (1 - value) / variance) if variance > 0 and 0 < value < 1 else kish
    return max(1, int(found + 1e-9))


def _interval(value: float, n: int, population: int) -> tuple[float, float]:
    """The ends of the interval for a share `value` among `n` of `population` records, both as shares.

    Clopper and Pearson's construction with the hypergeometric distribution; a count that is no whole number is rounded
    away from the middle.
    """
    from scipy.stats import hypergeom

    few, many = int(np.floor(value * n + 1e-9)), int(np.ceil(value * n - 1e-9))
    # P(at most `many` wrong in the sample) falls with the number of wrong records, P(at least `few`) rises.
    high = _last(lambda wrong: hypergeom.cdf(many, population, wrong, n) >= _ALPHA / 2, many, population)
    low = population - _last(
        lambda right: hypergeom.sf(few - 1, population, population - right, n) >= _ALPHA / 2, n - few, population
    )
    return min(low / population, value), max(high / population, value)


def _last(holds: Callable[[int], bool], start: int, stop: int) -> int:
    """The last whole number in [start, stop] for which `holds`, which is true at first and false from somewhere on."""
    while start < stop:
        middle = (start + stop + 1) // 2
        start, stop = (middle, stop) if holds(middle) else (start, middle - 1)
    return start


def least_upper_end(strata: Sequence[Stratum]) -> float:
    """The upper end of the interval if the whole sample is judged, and no error is found."""
    none = [(number, False) for number, stratum in enumerate(strata) for _ in range(stratum.drawn)]
    found = teacher_error(strata, none)
    return 1.0 if found is None else found.high
