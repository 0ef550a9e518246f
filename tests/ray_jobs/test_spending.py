"""The account of what is spent: nothing beyond the budget, and nothing forgotten."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ray_jobs.capture.spending import Account, Spending, ledger, shared
from stillhouse.cost.billing import FOLDER, Attempt, BilledTokens
from stillhouse.errors import UserError
from stillhouse.recipe import Recipe
from stillhouse.run import Run

MakeRecipe = Callable[..., Recipe]

PRICES = {"prices.teacher_input": 1e6, "prices.teacher_output": 2e6}
"""One a prompt token, two a completion token."""


def attempt(name: str, prompt: int = 2, completion: int = 4, *, batch: bool = False) -> Attempt:
    return Attempt(id=name, batch=batch, worst=BilledTokens(prompt=prompt, completion=completion))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.open(str(tmp_path / "run"))


@pytest.fixture
def account(run: Run, make_recipe: MakeRecipe) -> Callable[..., Account]:
    def opened(budget: float | None = 25.0, **changes: Any) -> Account:
        recipe = make_recipe({**PRICES, "capture.budget": budget, **changes})
        run.begin(recipe)
        return Account(recipe, run)

    return opened


def test_the_worst_case_is_set_aside_and_the_bill_takes_its_place(account: Callable[..., Account]) -> None:
    held = account()
    first = held.reserve("teacher", 0, attempt("a"))
    second = held.reserve("teacher", 1, attempt("b"))
    third = held.reserve("teacher", 2, attempt("c"))
    assert [first.granted, second.granted, third.granted] == [True, True, False]
    assert (third.spent, third.held, third.needed) == (0, 20, 10)
    held.settle("teacher", 0, "a", BilledTokens(prompt=2, completion=1), 1)
    again = held.reserve("teacher", 2, attempt("c"))
    assert (again.granted, again.spent, again.held) == (True, 4, 10)


def test_a_killed_attempt_counts_with_its_worst_case(account: Callable[..., Account], run: Run) -> None:
    account().reserve("teacher", 0, attempt("a"))
    held = account()
    again = held.reserve("teacher", 0, attempt("b"))
    assert (again.granted, again.spent, again.held) == (True, 10, 0)
    held.settle("teacher", 0, "b", BilledTokens(prompt=2, completion=2), 1)
    assert held.reserve("teacher", 1, attempt("c")).granted is False
    told = ledger(run)
    assert (told["cost"], told["unsettled"], told["prompt_tokens"], told["requests"]) == (16, 10, 2, 1)
    assert account(budget=26).reserve("teacher", 1, attempt("c")).granted


def test_a_part_that_is_asked_again_lost_its_former_attempt(account: Callable[..., Account]) -> None:
    held = account()
    held.reserve("teacher", 0, attempt("a"))
    again = held.reserve("teacher", 0, attempt("b"))
    assert (again.granted, again.spent, again.held) == (True, 10, 0)


def test_the_same_attempt_is_set_aside_once(account: Callable[..., Account], run: Run) -> None:
    held = account()
    for _ in range(5):
        assert held.reserve("teacher", 0, attempt("a", batch=True)).granted
    assert account(budget=1).reserve("teacher", 0, attempt("a", batch=True)).granted, "a batch that is there goes on"
    held.settle("teacher", 0, "a", BilledTokens(prompt=2, completion=4), 3)
    held.settle("teacher", 0, "a", BilledTokens(prompt=2, completion=4), 3)
    told = ledger(run)
    assert (told["cost"], told["price"], told["requests"]) == (5, "batch", 3)


def test_what_is_refused_is_not_written(account: Callable[..., Account], run: Run) -> None:
    assert not account(budget=9).reserve("teacher", 0, attempt("a")).granted
    assert run.storage.list(FOLDER) == []


def test_teachers_share_the_budget(account: Callable[..., Account], run: Run) -> None:
    held = account()
    assert held.reserve("teacher", 0, attempt("a")).granted
    assert held.reserve("judge", 0, attempt("b")).granted
    assert not held.reserve("judge", 1, attempt("c")).granted
    assert run.storage.list(FOLDER) == [f"{FOLDER}/judge/part-00000.json", f"{FOLDER}/part-00000.json"]


def test_a_budget_needs_prices(run: Run, make_recipe: MakeRecipe) -> None:
    with pytest.raises(UserError, match=r"needs `prices\.teacher_input`"):
        Account(make_recipe({"capture.budget": 5.0}), run)


def test_without_a_budget_everything_is_granted_and_counted(account: Callable[..., Account], run: Run) -> None:
    held = account(budget=None)
    assert all(held.reserve("teacher", part, attempt(str(part))).granted for part in range(20))
    assert ledger(run)["cost"] == 200


def test_a_damaged_account_is_not_taken_for_an_empty_one(account: Callable[..., Account], run: Run) -> None:
    account().reserve("teacher", 0, attempt("a"))
    run.storage.write(f"{FOLDER}/part-00000.json", b"{")
    with pytest.raises(UserError, match="nobody knows what was spent"):
        account()


@pytest.mark.slow
def test_workers_share_one_account_that_outlives_its_own_kill(tmp_path: Path, make_recipe: MakeRecipe) -> None:
    import ray

    from ray_jobs.capture.spending import open_spending

    run = Run.open(str(tmp_path / "run"))
    recipe = make_recipe({**PRICES, "capture.budget": 25.0})
    run.begin(recipe)

    @ray.remote(num_cpus=0)
    class Worker:
        def __init__(self) -> None:
            self.spending: Spending = open_spending(recipe, run)

        def reserve(self, part: int) -> bool:
            return self.spending.reserve("teacher", part, attempt(f"part {part}")).granted

    @ray.remote(num_cpus=0)
    def holder_pid(name: str) -> int:
        actor = ray.get_actor(name)
        return int(ray.get(actor.__ray_call__.remote(lambda _: os.getpid())))

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not find the tests
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    try:
        with shared(recipe, run):
            workers = [Worker.remote() for _ in range(4)]
            granted = ray.get([worker.reserve.remote(part) for part, worker in enumerate(workers)])
            assert sorted(granted) == [False, False, True, True]
            (name,) = [each["name"] for each in ray.util.list_named_actors(all_namespaces=True)]
            os.kill(ray.get(holder_pid.remote(name)), signal.SIGKILL)
            # It is started again from what it wrote: the budget is still spent.
            assert not ray.get(workers[0].reserve.remote(7))
            assert ledger(run)["cost"] == 20
        with shared(recipe.model_copy(update={"capture": recipe.capture.model_copy(update={"budget": 30.0})}), run):
            pass
    finally:
        ray.shutdown()
