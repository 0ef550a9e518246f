"""MLflow: what a training's figures were, for people who compare trainings there."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stillhouse.errors import UserError
from stillhouse.recipe import Recipe
from stillhouse.run import Run, cache_folder
from stillhouse.storage import LocalStorage

_DATABASE = "mlflow/mlflow.db"


class Tracker:
    """Logs to one MLflow run."""

    def __init__(self, client: Any, run_id: str) -> None:
        self._client, self._run_id = client, run_id

    def log(self, figures: Mapping[str, float]) -> None:
        """The figures of a step, whose number is `step`; those of all its metrics go in one request."""
        from mlflow.entities import Metric

        step = int(figures["step"])
        # MLflow wants a time; the steps tell the order, whatever a resumed training repeats.
        metrics = [Metric(name, float(value), 0, step) for name, value in figures.items() if name != "step"]
        self._client.log_batch(self._run_id, metrics=metrics)


@contextmanager
def tracker(recipe: Recipe, run: Run, name: str, settings: Mapping[str, Any]) -> Iterator[Tracker | None]:
    """An MLflow run for the training called `name`, the same one when it goes on after a stop; None without tracking.

    The embedded database of a run on S3 is written here and put beside the run's artifacts at the end.

    Raises:
        UserError: the server does not answer.
    """
    where = recipe.student.tracking.mlflow
    if where is None:
        yield None
        return
    path = _database(run) if where == "run" else None
    for logger in ("mlflow", "alembic"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    try:
        client = MlflowClient(tracking_uri=where if path is None else f"sqlite:///{path}")
        found = _begun(client, recipe, name)
        run_id = found or _begin(client, recipe, name, settings)
    except MlflowException as error:
        raise UserError(f"`student.tracking.mlflow` ({where}) cannot be used: {str(error).splitlines()[0]}") from error
    status = "FAILED"
    try:
        yield Tracker(client, run_id)
        status = "FINISHED"
    finally:
        client.set_terminated(run_id, status)
        if path is not None and not isinstance(run.storage, LocalStorage):
            run.storage.write(_DATABASE, path.read_bytes())


def _database(run: Run) -> Path:
    if isinstance(run.storage, LocalStorage):
        path = run.storage.path(_DATABASE)
    else:
        path = cache_folder("mlflow") / run.uri.removeprefix("s3://") / "mlflow.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() and run.storage.exists(_DATABASE):
        run.storage.download_file(_DATABASE, path)
    return path


def _experiment(recipe: Recipe) -> str:
    return recipe.student.tracking.experiment or recipe.name


def _begun(client: Any, recipe: Recipe, name: str) -> str | None:
    experiment = client.get_experiment_by_name(_experiment(recipe))
    if experiment is None:
        return None
    found = client.search_runs([experiment.experiment_id], f"tags.training = '{name}'", max_results=1)
    return found[0].info.run_id if found else None


def _begin(client: Any, recipe: Recipe, name: str, settings: Mapping[str, Any]) -> str:
    experiment = client.get_experiment_by_name(_experiment(recipe))
    number = client.create_experiment(_experiment(recipe)) if experiment is None else experiment.experiment_id
    made = client.create_run(number, run_name=f"{recipe.name}-{name}", tags={"training": name})
    for key, value in settings.items():
        client.log_param(made.info.run_id, key, value)
    run_id: str = made.info.run_id
    return run_id
