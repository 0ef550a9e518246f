"""Classes and macro-F1 against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, precision_recall_fscore_support

from stillhouse.metrics.classification import classification, codes, macro_f1

LABELS = ["a", "b", "c", "d"]


def test_each_class_is_sklearns() -> None:
    rng = np.random.default_rng(0)
    truth = [LABELS[i] for i in rng.integers(0, 4, 300)]
    answers = [[*LABELS, "none"][i] for i in rng.integers(0, 5, 300)]
    found = classification(truth, [None if answer == "none" else answer for answer in answers], LABELS)
    assert found is not None
    expected = np.array(precision_recall_fscore_support(truth, answers, labels=LABELS, zero_division=0)).T
    assert [(c.precision, c.recall, c.f1, c.support) for c in found.classes] == [pytest.approx(row) for row in expected]
    assert found.macro_f1 == pytest.approx(f1_score(truth, answers, labels=LABELS, average="macro"))
    assert found.accuracy.value == np.mean(np.array(truth) == answers)
    assert np.sum(found.counts) == 300


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from([*LABELS, None])), min_size=1, max_size=30))
def test_macro_f1_is_over_the_classes_that_occur(pairs: list[tuple[str, str | None]]) -> None:
    """What scikit-learn does by itself; an answer that is no label is given a class of its own there, and taken out."""
    truth, answers = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    occurring = sorted({*truth, *(answer for answer in answers if answer is not None)})
    expected = f1_score(truth, [str(a) for a in answers], labels=occurring, average="macro", zero_division=0)
    found = classification(truth, answers, LABELS)
    assert found is not None
    assert found.macro_f1 == pytest.approx(expected)
    counts = np.ones((3, len(truth)), dtype=np.int64) * np.array([[1], [2], [5]])
    resampled = macro_f1(codes(truth, LABELS), codes(answers, LABELS), labels=4, counts=counts)
    assert resampled.tolist() == pytest.approx([expected] * 3)


def test_records_without_a_reference_are_left_out() -> None:
    found = classification(["a", None, "b"], ["a", "a", None], ["a", "b"])
    assert found is not None
    assert (found.accuracy.n, found.classes[0].answered, found.counts) == (2, 1, ((1, 0, 0), (0, 0, 1)))
    assert classification([None], ["a"], ["a", "b"]) is None
