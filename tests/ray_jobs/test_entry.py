"""What every job does with its words, with the user's mistakes, and when it is told to stop."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ray.exceptions import RayTaskError

from ray_jobs import entry
from stillhouse.errors import StorageError, UserError
from stillhouse.recipe import Recipe
from stillhouse.recipe_file import dump_recipe
from stillhouse.run import Run

MakeRecipe = Callable[..., Recipe]
Job = Callable[[Recipe, Run], None]


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What happens, in order, with a cluster that is joined and left in name only."""
    happened: list[str] = []

    @contextmanager
    def connected() -> Iterator[None]:
        happened.append("joined")
        try:
            yield
        finally:
            happened.append("left")

    monkeypatch.setattr(entry, "connected", connected)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell starts a background job
    yield happened
    assert signal.signal(signal.SIGINT, before) == signal.SIG_IGN  # the job's own handler ended with it


@pytest.fixture
def start(tmp_path: Path, make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> Callable[[Job], None]:
    (tmp_path / "recipe.yaml").write_text(dump_recipe(make_recipe()))
    words = ["--recipe", str(tmp_path / "recipe.yaml"), "--run", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", ["python -m ray_jobs.step", *words])
    return lambda job: entry.main("step", job)


def test_the_job_gets_recipe_and_run(
    start: Callable[[Job], None], events: list[str], tmp_path: Path, make_recipe: MakeRecipe
) -> None:
    def job(recipe: Recipe, run: Run) -> None:
        assert recipe == make_recipe()
        assert run.recipe() == recipe
        assert run.uri == str(tmp_path / "run")
        events.append("done")

    start(job)
    assert events == ["joined", "done", "left"]


@pytest.mark.parametrize("on_a_worker", [False, True])
def test_a_users_mistake_is_one_sentence(
    start: Callable[[Job], None], events: list[str], capsys: pytest.CaptureFixture[str], on_a_worker: bool
) -> None:
    def job(_recipe: Recipe, _run: Run) -> None:
        mistake = StorageError("no space left on the disk")
        if on_a_worker:
            raise RayTaskError("task", "Traceback: ...", mistake, ip="127.0.0.1").as_instanceof_cause()
        raise mistake

    with pytest.raises(SystemExit) as ended:
        start(job)
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: no space left on the disk\n"
    assert events == ["joined", "left"]


def test_our_own_mistake_keeps_its_traceback(start: Callable[[Job], None], events: list[str]) -> None:
    def job(_recipe: Recipe, _run: Run) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        start(job)
    assert events == ["joined", "left"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_the_cluster_and_says_how_to_go_on(
    start: Callable[[Job], None], events: list[str], capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    def job(_recipe: Recipe, _run: Run) -> None:
        os.kill(os.getpid(), number)
        events.append("went on")

    with pytest.raises(SystemExit) as ended:
        start(job)
    assert ended.value.code == 130
    assert "the same command goes on from there" in capsys.readouterr().err
    assert events == ["joined", "left"]


def test_mistakes_are_found_before_a_cluster_is_joined(
    start: Callable[[Job], None],
    events: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    make_recipe: MakeRecipe,
) -> None:
    def job(_recipe: Recipe, _run: Run) -> None:
        raise UserError("must not begin")

    Run.open(str(tmp_path / "run")).begin(make_recipe({"name": "other"}))
    with pytest.raises(SystemExit) as ended:
        start(job)
    assert ended.value.code == 2
    assert "was made by the recipe 'other', not by 'tiny'" in capsys.readouterr().err
    (tmp_path / "recipe.yaml").write_text("name: [")
    with pytest.raises(SystemExit):
        start(job)
    assert "is not YAML" in capsys.readouterr().err
    assert events == []
