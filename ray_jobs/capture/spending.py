"""What a capture spends at endpoints: an account that is written before anything is asked, so that it survives a kill.

What it writes is `stillhouse.cost.billing`'s: an attempt with its worst case first, then what was billed. The prices of
the recipe are put on the tokens when the account is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import ray
from ray.exceptions import RayTaskError

from stillhouse.cost.billing import FOLDER, Attempt, BilledTokens, Page, pages
from stillhouse.data import FIRST_TEACHER
from stillhouse.errors import UserError
from stillhouse.recipe import Recipe
from stillhouse.run import Run, digest


@dataclass(frozen=True)
class Decision:
    """Whether a part may be asked.

    Attributes:
        spent: what was spent before, in the prices' currency, killed attempts at their worst case.
        held: what parts that are being asked now can cost at worst.
        needed: what this part can cost at worst.
    """

    granted: bool
    spent: float
    held: float
    needed: float


class Spending(Protocol):
    """The account as those see it who ask."""

    def reserve(self, teacher: str, part: int, attempt: Attempt) -> Decision:
        """Set the worst case of an attempt aside, if the budget allows; the same attempt is set aside once."""

    def settle(self, teacher: str, part: int, attempt_id: str, billed: BilledTokens, requests: int) -> None:
        """Say what an attempt did cost."""


class Account:
    """The account of one run; only one process holds it while the run is captured."""

    def __init__(self, recipe: Recipe, run: Run) -> None:
        """Raises `UserError` for a budget without prices, and for a damaged account."""
        self._prices, self._budget, self._run = recipe.prices, recipe.capture.budget, run
        prices = (self._prices.teacher_input, self._prices.teacher_output)
        if self._budget is not None and (None in prices or not any(prices)):
            raise UserError("`capture.budget` needs `prices.teacher_input` and `prices.teacher_output`")
        self._pages = dict(pages(run))
        # Attempts that this account was asked for: an older one that is not settled was killed.
        self._live: set[str] = set()

    def reserve(self, teacher: str, part: int, attempt: Attempt) -> Decision:
        """See `Spending.reserve`."""
        key = _key(teacher, part)
        before = self._pages.get(key, Page()).attempts
        needed = attempt.cost(self._prices)
        # Whoever asks for a part again has lost its former attempt.
        self._live -= {known.id for known in before}
        known = any(each.id == attempt.id for each in before)
        everything = [each for page in self._pages.values() for each in page.attempts if each.id != attempt.id]
        held = sum(each.cost(self._prices) for each in everything if each.id in self._live)
        spent = sum(each.cost(self._prices) for each in everything) - held
        granted = known or self._budget is None or spent + held + needed <= self._budget
        if granted:
            if not known:
                self._write(key, Page(attempts=(*before, attempt)))
            self._live.add(attempt.id)
        return Decision(granted, spent, held, needed)

    def settle(self, teacher: str, part: int, attempt_id: str, billed: BilledTokens, requests: int) -> None:
        """See `Spending.settle`."""
        key = _key(teacher, part)
        settled = tuple(
            each.model_copy(update={"billed": billed, "requests": requests}) if each.id == attempt_id else each
            for each in self._pages[key].attempts
        )
        self._write(key, Page(attempts=settled))
        self._live.discard(attempt_id)

    def _write(self, key: str, page: Page) -> None:
        self._run.storage.write(key, page.model_dump_json(indent=2).encode())
        self._pages[key] = page


class SharedAccount:
    """The account in a Ray actor of its own, for all who ask at once; it belongs to the process that opens it first."""

    def __init__(self, recipe: Recipe, run: Run) -> None:
        """Raises what `Account` raises."""
        Account(recipe, run)  # an actor that cannot start tells of it late, and with a traceback
        name = digest([run.uri, recipe.prices.model_dump(), recipe.capture.budget])[:16]
        # Started again after a kill, it reads what it wrote, and goes on: attempts carry ids.
        actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Account)
        self._actor = actor.options(name=f"stillhouse-spending-{name}", get_if_exists=True).remote(recipe, run)

    def close(self) -> None:
        """End the actor, so that the next one reads the account anew."""
        ray.kill(self._actor)

    def reserve(self, teacher: str, part: int, attempt: Attempt) -> Decision:
        """See `Spending.reserve`."""
        found: Decision = _result(self._actor.reserve.remote(teacher, part, attempt))
        return found

    def settle(self, teacher: str, part: int, attempt_id: str, billed: BilledTokens, requests: int) -> None:
        """See `Spending.settle`."""
        _result(self._actor.settle.remote(teacher, part, attempt_id, billed, requests))


def open_spending(recipe: Recipe, run: Run) -> Spending:
    """The run's account: the one that all processes of this Ray job share, or one of this process where Ray is not.

    Raises:
        UserError: a budget without prices, or a damaged account.
    """
    return SharedAccount(recipe, run) if ray.is_initialized() else Account(recipe, run)


@contextmanager
def shared(recipe: Recipe, run: Run) -> Iterator[None]:
    """For the driver: one account for all workers, which outlives each of them. Raises as `open_spending`."""
    account = SharedAccount(recipe, run)
    try:
        yield
    finally:
        account.close()


def ledger(run: Run) -> dict[str, Any]:
    """What the run's capture cost at endpoints, at the prices of its recipe.

    Returns:
        `currency`, `cost`; `prompt_tokens`, `completion_tokens` and `requests`, as they were billed; `price`: `list`,
        `batch` or `list and batch`; `unsettled`, the part of the cost that is the worst case of attempts that were
        killed.
    """
    prices = run.recipe().prices
    attempts = [attempt for _, page in pages(run) for attempt in page.attempts]
    billed = [attempt.billed for attempt in attempts if attempt.billed is not None]
    kinds = sorted({"batch" if attempt.batch else "list" for attempt in attempts}, reverse=True)
    return {
        "currency": prices.currency,
        "cost": round(sum(attempt.cost(prices) for attempt in attempts), 6),
        "unsettled": round(sum(attempt.cost(prices) for attempt in attempts if attempt.billed is None), 6),
        "price": " and ".join(kinds) or "list",
        "prompt_tokens": sum(tokens.prompt for tokens in billed),
        "completion_tokens": sum(tokens.completion for tokens in billed),
        "requests": sum(attempt.requests for attempt in attempts),
    }


def _result(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except RayTaskError as error:
        # Ray's own error carries a traceback where the user's mistake is one sentence.
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise


def _key(teacher: str, part: int) -> str:
    folder = FOLDER if teacher == FIRST_TEACHER else f"{FOLDER}/{teacher}"
    return f"{folder}/part-{part:05d}.json"
