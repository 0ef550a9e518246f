"""What a training tells: mean losses, the rate after the first step, and the time that is left."""

from __future__ import annotations

from typing import Any

import pytest

from ray_jobs.train import teller
from ray_jobs.train.teller import Teller


class Clock:
    """A clock that the test moves."""

    now = 500.0

    def monotonic(self) -> float:
        return self.now


class Board(list[Any]):
    """In place of a Ray queue."""

    put = list.append


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(teller, "time", made)
    monkeypatch.setattr(teller, "peak_memory", lambda: 3 * 2**29)
    return made


def _row(step: int, *, kd: float, ce: float = 1.0, tokens: int = 300) -> dict[str, float]:
    return {"step": step, "kd": kd, "ce": ce, "tokens": tokens}


def test_losses_are_means_and_the_first_step_says_nothing_of_the_rate(clock: Clock) -> None:
    board = Board()
    told = Teller(board, steps=24, begin=20)
    clock.now += 60  # waits for another worker
    told.step(_row(21, kd=1.0, ce=2.0, tokens=100))
    told.flops, told.peak = 2e9, 400e9
    for step, kd in ((22, 0.5), (23, 0.3), (24, 0.1)):
        clock.now += 6
        told.step(_row(step, kd=kd))
    assert [line for line in board if isinstance(line, str)] == [
        "21/24 steps, KD 1.0000, CE 2.0000",
        "23/24 steps, KD 0.4000, CE 1.0000, 50 tokens/s, MFU 25%, 1.5 GiB, 0:06 left",
        "24/24 steps, KD 0.1000, CE 1.0000, 50 tokens/s, MFU 25%, 1.5 GiB, 0:00 left",
    ]


def test_every_step_is_tracked_with_its_pace(clock: Clock) -> None:
    board = Board()
    told = Teller(board, steps=9, begin=0)
    told.step(_row(1, kd=1.0))
    clock.now += 2
    told.step(_row(2, kd=0.5))
    told.track({"step": 2, "validation_loss": 0.25})
    assert board == [
        _row(1, kd=1.0),
        {**_row(2, kd=0.5), "tokens_per_second": 150, "memory_gib": 1.5},
        {"step": 2, "validation_loss": 0.25},
    ]


def test_only_a_teller_with_a_board_speaks(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    silent = Teller(None, steps=1, begin=0)
    silent.say("nothing")
    silent.step(_row(1, kd=1.0))
    assert capsys.readouterr().out == ""
