"""What a training tells: mean losses, the rate after the first step, and the time that is left."""

from __future__ import annotations

import pytest

from ray_jobs.train import teller
from ray_jobs.train.teller import Teller


class Clock:
    """A clock that the test moves."""

    now = 500.0

    def monotonic(self) -> float:
        return self.now


class Board(list[str]):
    """In place of a Ray queue."""

    put = list.append


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(teller, "time", made)
    return made


def test_losses_are_means_and_the_first_step_says_nothing_of_the_rate(clock: Clock) -> None:
    board = Board()
    told = Teller(board, steps=24, begin=20)
    clock.now += 60  # waits for another worker
    told.step(21, kd=1.0, ce=2.0, tokens=100)
    for step, kd in ((22, 0.5), (23, 0.3), (24, 0.1)):
        clock.now += 6
        told.step(step, kd=kd, ce=1.0, tokens=300)
    assert board == [
        "21/24 steps, KD 1.0000, CE 2.0000",
        "23/24 steps, KD 0.4000, CE 1.0000, 50 tokens/s, 0:06 left",
        "24/24 steps, KD 0.1000, CE 1.0000, 50 tokens/s, 0:00 left",
    ]


def test_only_a_teller_with_a_board_speaks(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    silent = Teller(None, steps=1, begin=0)
    silent.say("nothing")
    silent.step(1, kd=1.0, ce=1.0, tokens=1)
    assert capsys.readouterr().out == ""
