"""What a training tells the user while it runs."""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping
from typing import Any

import torch

from stillhouse.duration import duration

_TELL_EVERY_S = 10.0


class Teller:
    """Puts lines and figures on the driver's board; a teller without a board is silent, as on every worker but the
    first.

    Losses are means over the steps since the last line. The rates are those of the whole training after its first step,
    which also waits for the slowest worker to be ready.

    Attributes:
        flops: floating-point operations a token that the student reads, forward and backward, once they are counted.
        peak: what all workers' devices are capable of, in FLOP/s.
    """

    def __init__(self, board: Any, steps: int, begin: int) -> None:
        self._board, self._steps = board, steps
        self._started: float | None = None
        self._first = begin + 1
        self._tokens = 0
        self._told = time.monotonic()
        self._rows: list[Mapping[str, float]] = []
        self.flops = self.peak = 0.0

    def say(self, text: str) -> None:
        """One line."""
        if self._board is not None:
            self._board.put(text)

    def track(self, row: Mapping[str, float]) -> None:
        """Figures of a step, for whoever keeps them."""
        if self._board is not None:
            self._board.put(dict(row))

    def step(self, row: Mapping[str, float]) -> None:
        """Note a finished step: its number `step`, losses `kd` and `ce`, and `tokens`; tell the user every ten seconds,
        and at the end."""
        now, done = time.monotonic(), int(row["step"])
        self._rows.append(row)
        if self._started is None:
            self._started = now
        else:
            self._tokens += int(row["tokens"])
        pace = self._pace(now)
        self.track({**row, **pace})
        if now - self._told < _TELL_EVERY_S and done < self._steps:
            return
        kd, ce = (sum(one[name] for one in self._rows) / len(self._rows) for name in ("kd", "ce"))
        self.say(f"{done}/{self._steps} steps, KD {kd:.4f}, CE {ce:.4f}{self._shown(pace, done, now)}")
        self._told = now
        self._rows.clear()

    def _pace(self, now: float) -> dict[str, float]:
        if not self._tokens or self._started is None:
            return {}
        rate = self._tokens / max(now - self._started, 1e-9)
        used = {"mfu": rate * self.flops / self.peak} if self.flops and self.peak else {}
        return {"tokens_per_second": rate, **used, "memory_gib": peak_memory() / 2**30}

    def _shown(self, pace: Mapping[str, float], done: int, now: float) -> str:
        if not pace or self._started is None:
            return ""
        left = (self._steps - done) * (now - self._started) / (done - self._first)
        mfu = f", MFU {pace['mfu']:.0%}" if "mfu" in pace else ""
        return f", {pace['tokens_per_second']:.0f} tokens/s{mfu}, {pace['memory_gib']:.1f} GiB, {duration(left)} left"


def peak_memory() -> int:
    """Bytes that this worker has held at most: of its GPU's memory, or of the machine's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
