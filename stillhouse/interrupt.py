"""Being told to stop: SIGTERM ends a command as Ctrl-C does, so that what it started ends with it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGINT and SIGTERM raise `KeyboardInterrupt` for the length of a `with`; the earlier handlers come back after it.

    Raises ValueError outside the main thread, where no signal arrives.
    """
    # `kubectl delete` and `docker stop` send SIGTERM. And a shell's background job begins with SIGINT ignored.
    earlier = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            if handler is not None:  # one that was not installed from Python cannot be put back
                signal.signal(number, handler)


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
