"""Around a training: which checkpoints it may go on from, and which failures are the user's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from reviews_made import MakeRecipe, made, sentiments

from ray_jobs.train.job import _cause, _tidy, train
from stillhouse.errors import UserError
from stillhouse.run import Run

SNAPSHOT = "training/mine/checkpoint_manager_snapshot.json"
SHARD = "training/mine/checkpoint_1/step/shard.pt"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = Run.open(str(tmp_path / "run"))
    made.storage.write(SHARD, b"weights")
    made.storage.write("training/another/checkpoint_1/step/shard.pt", b"weights")
    return made


def test_checkpoints_of_other_inputs_are_removed(run: Run) -> None:
    run.storage.write(SNAPSHOT, b'{"checkpoint_results": []}')
    _tidy(run, "mine")
    assert run.storage.list("training") == [SHARD, SNAPSHOT]


def test_a_snapshot_that_was_cut_off_is_not_gone_on_from(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run.storage.write(SNAPSHOT, b'{"checkpoint_res')
    _tidy(run, "mine")
    assert run.storage.list("training") == []
    assert "begins again" in capsys.readouterr().out


def test_a_users_mistake_in_a_worker_comes_back_as_one() -> None:
    class Failed(Exception):
        worker_failures = {0: RuntimeError("lost a peer"), 1: UserError("the tokenizer differs")}  # noqa: RUF012

    found = _cause(Failed())
    assert isinstance(found, UserError)
    assert str(found) == "the tokenizer differs"
    crash = RuntimeError("a worker died")
    assert _cause(crash) is crash


@pytest.mark.parametrize("student", [{}, {"openai": {"model": "gpt"}}], ids=["weights", "openai"])
def test_no_training_starts_before_the_review_that_it_waits_for(
    tmp_path: Path, make_recipe: MakeRecipe, student: dict[str, Any]
) -> None:
    recipe = make_recipe({"review.max_error": 0.3, "student": student})
    reviewed = made(Run.open(str(tmp_path / "reviewed")), recipe, sentiments(100))
    with pytest.raises(UserError, match=r"`review\.max_error` asks for 12 judged records, and there are 0; go on with"):
        train(recipe, reviewed)
