"""Both signals interrupt, and whoever listened before listens again."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from stillhouse.interrupt import interruptible

BOTH = (signal.SIGINT, signal.SIGTERM)


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in BOTH]


@pytest.fixture
def earlier() -> Iterator[list[Any]]:
    """Handlers unlike Python's own: SIGINT is ignored, as in a shell's background job."""
    before = handlers()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: None)
    yield handlers()
    for number, handler in zip(BOTH, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", BOTH)
def test_a_signal_interrupts_once_and_for_as_long(number: signal.Signals, earlier: list[Any]) -> None:
    with pytest.raises(KeyboardInterrupt), interruptible():
        os.kill(os.getpid(), number)
    assert handlers() == earlier
    os.kill(os.getpid(), number)  # nobody is interrupted any more


def test_what_happens_inside_does_not_matter(earlier: list[Any]) -> None:
    with interruptible():
        # As the end of a service does, which lets nobody interrupt it.
        for number in BOTH:
            signal.signal(number, signal.SIG_IGN)
    assert handlers() == earlier
    with pytest.raises(ZeroDivisionError), interruptible(), interruptible():
        raise ZeroDivisionError
    assert handlers() == earlier
