"""Strata, and how many are drawn from each."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.review.strata import allocated, stratified


def test_a_large_class_is_cut_both_ways_into_cells_of_like_size() -> None:
    draw = np.random.default_rng(0)
    labels = ["a"] * 900
    lengths, confidences = draw.integers(1, 1000, 900).tolist(), draw.random(900).tolist()
    found = Counter(name for _, name in stratified(labels, lengths, confidences, share=0.12))
    assert len(found) == 9
    assert min(found.values()) > 60
    assert "a, short, low confidence" in found


def test_a_class_is_cut_only_as_far_as_its_sample_reaches() -> None:
    labels = ["big"] * 100 + ["middle"] * 40 + ["small"] * 5
    confidences = [i / 200 for i in range(145)]
    found = stratified(labels, [i % 7 for i in range(145)], confidences, share=0.1)
    cells = Counter(label for label, _ in set(found))
    assert cells == {"big": 9, "middle": 3, "small": 1}
    assert {name for label, name in found if label == "middle"} == {
        "middle, low confidence",
        "middle, medium confidence",
        "middle, high confidence",
    }


def test_where_most_are_sure_the_unsure_stand_apart() -> None:
    confidences = [1.0] * 95 + [0.4] * 5
    found = stratified([""] * 100, [1] * 100, confidences, share=0.12)
    assert {name for _, name in found[95:]}.isdisjoint({name for _, name in found[:95]})


def test_without_confidence_there_is_length_and_a_missing_one_is_a_cell_of_its_own() -> None:
    none = {name for _, name in stratified(["a"] * 60, list(range(60)), [None] * 60, share=0.1)}
    assert none == {"a, short", "a, medium", "a, long"}
    some = stratified(["a"] * 60, [1] * 60, [None, *[i / 60 for i in range(59)]], share=0.1)
    assert some[0][1] == "a, unknown"
    assert sum(name == "a, unknown" for _, name in some) == 1


@settings(deadline=None)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=40), st.floats(0.01, 1))
def test_allocation_is_proportional_and_misses_no_stratum(sizes: list[int], share: float) -> None:
    drawn = allocated(sizes, share=share)
    assert all(1 <= count <= size for count, size in zip(drawn, sizes, strict=True))
    assert all(count < max(share * size, 1) + 1 for count, size in zip(drawn, sizes, strict=True))
    forced = sum(share * size < 1 for size in sizes)
    wanted, half = share * sum(sizes), 0.5 + 1e-6
    assert wanted - half <= sum(drawn) <= wanted + half + forced
