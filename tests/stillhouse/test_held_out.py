"""Held-out records that were trained on, and classes that do not occur."""

import pytest

from stillhouse.errors import UserError
from stillhouse.held_out import missing_classes, require_apart


def test_records_that_were_trained_on_are_named() -> None:
    train = [f"text {i}" for i in range(10)]
    held_out = {"calibration": {"c": "another"}, "test": {f"r{i}": f"Text  {i}" for i in range(5, 20)}}
    require_apart([], held_out)
    require_apart(train, {"test": {"a": "text 11"}})
    with pytest.raises(UserError, match=r"^5 of 15 test records were trained on \(r5, r6, r7, r8, r9\), so that"):
        require_apart(train, held_out)
    with pytest.raises(UserError, match=r"\(r5, r6, r7, r8, r9 and 1 more\)"):
        require_apart([*train, "text 10"], held_out)


def test_classes_that_do_not_occur_are_named() -> None:
    found = missing_classes(["a", "b", "c"], {"calibration": {"a", None}, "test": {"a", "b", "c"}})
    assert found == ["No calibration record has the answers “b”, “c”: nothing is known of how the student does there."]
    assert missing_classes([], {"test": {"x"}}) == []
