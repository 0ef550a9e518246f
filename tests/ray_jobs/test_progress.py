"""Progress: how far, how fast, how long still, without the time that an engine took to start."""

from __future__ import annotations

import pytest

from ray_jobs import progress
from ray_jobs.progress import Progress
from stillhouse.duration import duration


class Clock:
    """A clock that the test moves."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


@pytest.mark.parametrize(
    ("seconds", "told"), [(0, "0:00"), (59.4, "0:59"), (59.6, "1:00"), (3599.9, "1:00:00"), (36_061, "10:01:01")]
)
def test_duration(seconds: float, told: str) -> None:
    assert duration(seconds) == told


def test_rate_and_time_left_do_not_count_the_start(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    told = Progress("capture", 1000, "records")
    clock.now += 60  # the engine starts, and answers the first
    told.add(100)
    clock.now += 10
    told.add(200)
    clock.now += 20
    told.add(400, "mean 12 tokens")
    assert capsys.readouterr().out.splitlines() == [
        "[capture] 100/1000 records",
        "[capture] 300/1000 records, 20.0 records/s, 0:35 left",
        "[capture] 700/1000 records, 20.0 records/s, 0:15 left, mean 12 tokens",
    ]


def test_what_was_done_before_says_nothing_of_the_rate(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    told = Progress("capture", 1000, "records", done=800)
    told.add(50)
    clock.now += 10
    told.add(50)
    assert capsys.readouterr().out.splitlines()[-1] == "[capture] 900/1000 records, 5.0 records/s, 0:20 left"


def test_lines_are_rare_but_the_last_is_always_there(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    told = Progress("train", 100, "steps", every=5)
    for _ in range(100):
        told.add(1)
        clock.now += 0.3
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7  # one each 5.1 s of 30 s, and the last
    assert lines[-1].startswith("[train] 100/100 steps, ")


def test_all_at_once(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    Progress("evaluate", 10, "records").add(10)
    assert capsys.readouterr().out == "[evaluate] 10/10 records\n"
