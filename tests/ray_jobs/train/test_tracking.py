"""MLflow: one run a training, in a database of the run's, whatever is started again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ray_jobs.train.tracking import tracker
from stillhouse.errors import UserError
from stillhouse.recipe import Recipe
from stillhouse.run import Run


def _client(database: Path) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=f"sqlite:///{database}")


def _train(recipe: Recipe, run: Run, *losses: tuple[int, float], name: str = "abc", fails: bool = False) -> None:
    with tracker(recipe, run, name, {"learning_rate": 0.1}) as tracked:
        assert tracked is not None
        for step, loss in losses:
            tracked.log({"step": step, "loss": loss})
        if fails:
            raise RuntimeError("killed")


def test_a_training_that_goes_on_goes_on_in_its_mlflow_run(tmp_path: Path, make_recipe: Callable[..., Recipe]) -> None:
    recipe, run = make_recipe(), Run.open(str(tmp_path / "run"))

    with pytest.raises(RuntimeError, match="killed"):
        _train(recipe, run, (1, 0.5), fails=True)
    client = _client(tmp_path / "run" / "mlflow" / "mlflow.db")
    experiment = client.get_experiment_by_name("tiny")
    (failed,) = client.search_runs([experiment.experiment_id])
    assert failed.info.status == "FAILED"

    _train(recipe, run, (2, 0.25))
    _train(recipe, run, (1, 0.125), name="another")

    done = client.get_run(failed.info.run_id)
    assert len(client.search_runs([experiment.experiment_id])) == 2
    assert done.info.status == "FINISHED"
    assert done.data.params == {"learning_rate": "0.1"}
    history = client.get_metric_history(failed.info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 0.5), (2, 0.25)]


def test_the_database_of_a_run_on_s3_is_put_there(
    s3: Callable[[], str], tmp_path: Path, make_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, run = make_recipe({"student.tracking": {"experiment": "reviews"}}), Run.open(s3())
    for machine, figure in (("one", (1, 0.5)), ("another", (2, 0.25))):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / machine))
        _train(recipe, run, figure)

    run.storage.download_file("mlflow/mlflow.db", tmp_path / "copy.db")
    client = _client(tmp_path / "copy.db")
    (found,) = client.search_runs([client.get_experiment_by_name("reviews").experiment_id])
    assert [metric.step for metric in client.get_metric_history(found.info.run_id, "loss")] == [1, 2]


def test_nothing_is_written_without_tracking(tmp_path: Path, make_recipe: Callable[..., Recipe]) -> None:
    run = Run.open(str(tmp_path / "run"))
    with tracker(make_recipe({"student.tracking": {"mlflow": None}}), run, "abc", {}) as tracked:
        assert tracked is None
    assert run.storage.list() == []


def test_a_server_that_does_not_answer_is_the_users_to_mend(
    tmp_path: Path, make_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    recipe = make_recipe({"student.tracking": {"mlflow": "http://127.0.0.1:9"}})
    with (
        pytest.raises(UserError, match=r"`student.tracking.mlflow` \(http://127.0.0.1:9\) cannot be used"),
        tracker(recipe, Run.open(str(tmp_path)), "abc", {}),
    ):
        pass
