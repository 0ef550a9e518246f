"""Around a training: which checkpoints it may go on from, and which failures are the user's."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_jobs.train.job import _cause, _tidy
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
