"""What a manifest tells of a start, and what it keeps to itself."""

from __future__ import annotations

from stillhouse.timed import Timed, counted, last_start


def test_a_manifest_tells_a_start_as_it_was() -> None:
    start = Timed(2.5, 100)
    assert start.tokens_per_s == 40
    assert last_start({"records": 8, **counted(start)}) == start


def test_a_start_that_says_nothing_of_its_speed_is_left_out() -> None:
    for start in (Timed(0.0), Timed(2.0), Timed(0.0, 5), Timed(-1.0, 5)):
        assert start.tokens_per_s is None
        assert counted(start) == {}
    assert last_start({"records": 8, "completion_tokens": 16}) is None
