"""JSON answers by hand, and the properties that F1 has."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.metrics.fields import json_quality, leaf_counts, leaves, micro_f1


def canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def test_leaves() -> None:
    text = canonical({"who": {"name": "Ä", "x.y": None}, "tags": ["x", "y", "x"], "none": [], "n": 2.0})
    assert leaves(text) == Counter(
        {("who.name", '"\\u00c4"'): 1, ("who.x\\.y", "null"): 1, ("tags[]", '"x"'): 2, ("tags[]", '"y"'): 1,
         ("none", "[]"): 1, ("n", "2"): 1}
    )  # fmt: skip
    assert leaves(canonical([[1], [2]])) == Counter({("[][]", "1"): 1, ("[][]", "2"): 1})
    assert leaves("3") == Counter({("", "3"): 1})
    assert leaves(None) == Counter()


@pytest.mark.parametrize(
    ("answer", "truth", "same"),
    [
        (1, 1.0, True),
        (1, True, False),
        (0, False, False),
        (1, "1", False),
        (None, "null", False),
        (1e30, 10**30, False),
    ],
)
def test_when_two_scalars_are_equal(answer: Any, truth: Any, same: bool) -> None:
    right, _, _ = leaf_counts([canonical({"n": answer})], [canonical({"n": truth})])
    assert right.tolist() == [int(same)]


def test_by_hand() -> None:
    truth = [
        canonical({"name": "A", "tags": ["x", "y"]}),
        canonical({"name": "B", "tags": ["z"]}),
        canonical({"name": "C", "tags": []}),
    ]
    answers = [
        canonical({"name": "A", "tags": ["y", "x"]}),  # the order alone differs
        canonical({"name": "b", "tags": ["z", "w"]}),  # a wrong name, a tag too many
        None,
    ]
    found = json_quality(answers, truth)
    assert (found.validity.value, found.exact.value) == (pytest.approx(2 / 3), 0)
    # Right: A, x, y, z. Given: 3 + 3. Wanted: 3 + 2 + 2, an empty list being a leaf.
    assert (found.precision, found.recall, found.micro_f1) == pytest.approx((4 / 6, 4 / 7, 8 / 13))
    by_path = {field.path: field for field in found.fields}
    assert list(by_path) == ["name", "tags", "tags[]"]
    assert (by_path["name"].exact.value, by_path["name"].exact.n) == (pytest.approx(1 / 3), 3)
    assert (by_path["tags[]"].exact.value, by_path["tags[]"].exact.n) == (0.5, 2)
    assert (by_path["tags[]"].precision, by_path["tags[]"].recall) == pytest.approx((3 / 4, 1))
    assert (by_path["tags"].f1, by_path["tags"].exact.n) == (0, 1)
    assert found.macro_f1 == pytest.approx((2 / 5 + 0 + 6 / 7) / 3)
    assert float(micro_f1(*leaf_counts(answers, truth), counts=np.ones(len(truth)))) == pytest.approx(found.micro_f1)


SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.text("ab.[", max_size=2)
KEYS = st.text("ab.", max_size=2)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6
)


@settings(max_examples=60, deadline=None)
@given(VALUES, VALUES)
def test_f1_is_one_for_itself_and_symmetric(first: Any, second: Any) -> None:
    one, other = canonical(first), canonical(second)
    itself = json_quality([one], [one])
    assert (itself.micro_f1, itself.macro_f1, itself.exact.value) == (1, 1, 1)
    there, back = json_quality([one], [other]), json_quality([other], [one])
    assert there.micro_f1 == pytest.approx(back.micro_f1)
    assert there.precision == pytest.approx(back.recall)


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(ValueError, match="no records"):
        json_quality([], [])
    with pytest.raises(ValueError):
        json_quality(["{}"], ["{}", "{}"])
