"""How many requests are under way at once: as many as the endpoint bears.

Additive increase and multiplicative decrease, as TCP does it (Jacobson 1988, "Congestion avoidance and control"): the
limit doubles from round to round until the first trouble, grows by one a round after it, and halves at trouble.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

START = 4


class Pace:
    """The limit of one endpoint, and the turns that it allows.

    Args:
        most: requests at once, however well it goes.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = float(min(START, most))
        self._rising_fast = True
        self._running = 0
        self._troubles = 0
        self._closed_until = 0.0
        self._changed = asyncio.Condition()

    @property
    def limit(self) -> int:
        """Requests that may be under way now."""
        return int(self._limit)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[Turn]:
        """Wait for a turn, and hold it."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._running < self.limit)
            self._running += 1
        try:
            # The endpoint said when it wants to be asked again.
            while (left := self._closed_until - asyncio.get_running_loop().time()) > 0:
                await asyncio.sleep(left)
            yield Turn(self, self._troubles)
        finally:
            self._running -= 1
            async with self._changed:
                self._changed.notify_all()

    def rise(self) -> None:
        """An answer came."""
        self._limit = min(self._most, self._limit + (1 if self._rising_fast else 1 / self._limit))

    def fall(self, troubles_before: int) -> None:
        """The endpoint is busy, for a request that began after `troubles_before` troubles.

        Requests that were under way together tell of one and the same trouble.
        """
        if troubles_before == self._troubles:
            self._troubles += 1
            self._rising_fast = False
            self._limit = max(1.0, self._limit / 2)

    def close(self, seconds: float) -> None:
        """Ask nothing for that long."""
        self._closed_until = max(self._closed_until, asyncio.get_running_loop().time() + seconds)


class Turn:
    """One request's turn; it says how that went."""

    def __init__(self, pace: Pace, troubles: int) -> None:
        self._pace, self._troubles = pace, troubles

    def answered(self) -> None:
        """The endpoint answered, whatever it said."""
        self._pace.rise()

    def busy(self, retry_after: float | None = None) -> None:
        """It did not, or it asked to be left alone for `retry_after` seconds."""
        self._pace.fall(self._troubles)
        if retry_after:
            self._pace.close(retry_after)
