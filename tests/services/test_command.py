"""How a serving command ends as a process, whatever ended it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence

import pytest

from services.command import run_command
from stillhouse.errors import UserError


def mistaken(_: Sequence[str] | None) -> None:
    raise UserError("the port is taken")


def broken(_: Sequence[str] | None) -> None:
    raise RuntimeError("no memory")


def interrupted(_: Sequence[str] | None) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    raise AssertionError("went on")


@pytest.mark.parametrize(
    ("command", "status", "told"),
    [
        (lambda _: None, 0, ""),
        (mistaken, 2, "error: the port is taken\n"),
        (broken, 1, "error: the page did not start: no memory\n"),
        (interrupted, 130, ""),
    ],
)
def test_the_end_of_a_command(
    command: Callable[[Sequence[str] | None], None], status: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(SystemExit) as ended:
        run_command(command, "the page")
    assert (ended.value.code, capsys.readouterr().err) == (status, told)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
