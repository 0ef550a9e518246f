"""What a training tells the user while it runs."""

from __future__ import annotations

import time
from typing import Any

from stillhouse.duration import duration

_TELL_EVERY_S = 10.0


class Teller:
    """Puts lines on the driver's board; a teller without a board is silent, as on every worker but the first.

    Losses are means over the steps since the last line. The rate is that of the whole training after its first step,
    which also waits for the slowest worker to be ready.
    """

    def __init__(self, board: Any, steps: int, begin: int) -> None:
        self._board, self._steps = board, steps
        self._started: float | None = None
        self._first = begin + 1
        self._tokens = 0
        self._told = time.monotonic()
        self._kd: list[float] = []
        self._ce: list[float] = []

    def say(self, text: str) -> None:
        """One line."""
        if self._board is not None:
            self._board.put(text)

    def step(self, done: int, *, kd: float, ce: float, tokens: int) -> None:
        """Note a finished step and its tokens; tell the user every ten seconds, and at the end."""
        now = time.monotonic()
        self._kd.append(kd)
        self._ce.append(ce)
        if self._started is None:
            self._started = now
        else:
            self._tokens += tokens
        if now - self._told < _TELL_EVERY_S and done < self._steps:
            return
        pace = ""
        if done > self._first:
            spent = max(now - self._started, 1e-9)
            left = (self._steps - done) * spent / (done - self._first)
            pace = f", {self._tokens / spent:.0f} tokens/s, {duration(left)} left"
        kd, ce = (sum(values) / len(values) for values in (self._kd, self._ce))
        self.say(f"{done}/{self._steps} steps, KD {kd:.4f}, CE {ce:.4f}{pace}")
        self._told = now
        self._kd.clear()
        self._ce.clear()
