"""Progress of a long step: how far, how fast, how long still. Plain lines, since they also go to a cluster's logs."""

from __future__ import annotations

import time

from stillhouse.duration import duration


class Progress:
    """Counts units of work, and prints a line at most every `every` seconds, and a last one.

    Args:
        total: units in all.
        done: units that were finished before, which say nothing of the rate.
    """

    def __init__(self, step: str, total: int, unit: str, *, done: int = 0, every: float = 5.0) -> None:
        self.step, self.total, self.unit, self.every = step, total, unit, every
        self.done = done
        self._began: float | None = None
        self._before = done
        self._told = float("-inf")

    def add(self, count: int, note: str = "") -> None:
        """Count `count` more units; `note` goes at the end of the line."""
        self.done += count
        now = time.monotonic()
        if self._began is None:  # the first units also waited for an engine to start: they say nothing of the rate
            self._began, self._before = now, self.done
        if now - self._told < self.every and self.done < self.total:
            return
        self._told = now
        rate = (self.done - self._before) / max(now - self._began, 1e-9)
        pace = f", {rate:.1f} {self.unit}/s, {duration((self.total - self.done) / rate)} left" if rate > 0 else ""
        say(self.step, f"{self.done}/{self.total} {self.unit}{pace}{f', {note}' if note else ''}")


def say(step: str, text: str) -> None:
    """One line about a step."""
    print(f"[{step}] {text}", flush=True)
