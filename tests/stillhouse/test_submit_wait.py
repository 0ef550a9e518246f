"""A cluster that has just begun is waited for, and no longer than that."""

from __future__ import annotations

from typing import Any

import pytest

from stillhouse import submit as module
from stillhouse.errors import UserError

NO_AGENT = "Request failed with status code 500: No available agent to submit job, please try again later.."


class Client:
    """Refuses so many times."""

    def __init__(self, times: int, told: str = NO_AGENT) -> None:
        self.left, self.told = times, told

    def submit_job(self, **_: Any) -> str:
        self.left -= 1
        if self.left >= 0:
            raise RuntimeError(self.told)
        return "raysubmit_1"


@pytest.fixture(autouse=True)
def _no_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)


def submitted(client: Any) -> str:
    return module._submitted(client, "python -m job", {})


def test_it_is_asked_again_until_it_takes_the_job() -> None:
    assert submitted(Client(3)) == "raysubmit_1"


def test_one_that_never_does_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGENT_TIMEOUT_S", -1.0)
    with pytest.raises(UserError, match="the cluster takes no jobs"):
        submitted(Client(1))


def test_what_else_is_wrong_is_told_at_once() -> None:
    client = Client(1, "Request failed with status code 500: something else")
    with pytest.raises(RuntimeError, match="something else"):
        submitted(client)
    assert client.left == 0
