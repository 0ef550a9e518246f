"""Train the student: Ray Train workers with DeepSpeed, from the dataset to a Hugging Face folder.

A training that was cut off goes on from its last checkpoint in RUN/training, which is named by what it is made from
and removed when the student is there. One that loses a worker goes on by itself.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import pyarrow.fs
import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.config import LoggingConfig
from ray.train.v2.api.exceptions import TrainingFailedError
from ray.util.queue import Empty, Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_jobs.progress import say
from ray_jobs.train.config import Config, train_worker
from ray_jobs.train.model_card import model_card
from ray_jobs.train.tracking import Tracker, tracker
from stillhouse import lineage
from stillhouse.errors import UserError
from stillhouse.recipe import Recipe
from stillhouse.review.gate import require_reviewed
from stillhouse.run import Run, digest
from stillhouse.storage import LocalStorage
from stillhouse.teachers import told, tuned

KEEP_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(2**26),
}
"""For glibc in workers on a CPU: keep freed memory. Else each step's gradients and DeepSpeed's buffers, a gigabyte for
50M parameters, go back to the kernel and are cleared again page by page, which took a quarter of a worker's time."""

_MAX_LOSSES = 3
"""So often a training may lose workers without a new checkpoint in between: more, and it is no accident."""

_SNAPSHOT = "checkpoint_manager_snapshot.json"
"""Where Ray Train notes which checkpoints are whole."""


def train(recipe: Recipe, run: Run) -> None:
    """Make RUN/student.

    Raises:
        UserError: no dataset, a review that is still wanted, an unknown model, another tokenizer than the teacher's, a
            loss that is not a number.
    """
    require_reviewed(recipe, run)
    if recipe.student.openai is not None:
        from ray_jobs.train.openai_student import train_openai  # half a second for every worker otherwise

        train_openai(recipe, run)
        return
    began = time.monotonic()
    dataset = run.finished("dataset", "curate")
    student = recipe.student
    inputs = lineage.inputs("student", recipe, run)
    say(
        "train",
        f"reads {run.uri}/dataset, writes {run.uri}/student; ZeRO-{student.zero_stage}, {student.workers} workers",
    )
    card = partial(model_card, recipe, inputs)
    counts = trained(Config(tuned(recipe, run), run, name_of(inputs), card), partial(say, "train"))
    counts = {"records": dataset.counts["train"], **counts}
    run.commit("student", recipe=recipe, inputs=inputs, counts=counts, began=began)
    remove(run, "training")


def name_of(inputs: Mapping[str, str]) -> str:
    """What a training is called: by what it is made from. Its checkpoints lie in RUN/training/NAME."""
    return digest(inputs)[:16]


def trained(config: Config, tell: Callable[[str], None]) -> dict[str, float]:
    """Train, and put the model into the run, without a manifest yet; what worker 0 counted.

    Checkpoints of other trainings are removed; its own ones stay, until `remove`.

    Args:
        tell: given the lines that are for the user.

    Raises:
        UserError: as `train`.
    """
    recipe, run, name = config.recipe, config.run, config.name
    _tidy(run, name)
    settings = {key: value for key, value in recipe.student.model_dump(mode="json").items() if key != "engine"}
    with tracker(recipe, run, name, {**settings, "seed": recipe.seed, "teacher": told(recipe.teacher)}) as tracked:
        return _trained(config, tracked, tell)


def _trained(config: Config, tracked: Tracker | None, tell: Callable[[str], None]) -> dict[str, float]:
    """Train, from the last checkpoint as often as workers are lost; what worker 0 counted.

    Raises:
        UserError: a mistake of the user's; or `_MAX_LOSSES` losses in a row without a new checkpoint.
    """
    run, name = config.run, config.name
    lost, reached = 0, _checkpoint(run, name)
    while True:
        try:
            return _fitted(config, tracked, tell)
        except TrainingFailedError as error:
            if isinstance(cause := _cause(error), UserError):
                raise cause from error
            lost = lost + 1 if _checkpoint(run, name) == reached else 1
            reached = _checkpoint(run, name)
            if lost == _MAX_LOSSES:
                raise
            tell(f"a worker failed ({_line(error)}): goes on from {reached or 'the beginning'}")


def _fitted(config: Config, tracked: Tracker | None, tell: Callable[[str], None]) -> dict[str, float]:
    """Train once, and print and track meanwhile what the first worker says.

    In the main thread Ray Train would take Ctrl-C for itself, and end this process with status 0.
    """
    # Beside the driver, whose end is the training's in any case; on another machine it would take the training with it.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    student, board = config.recipe.student, Queue(actor_options={"scheduling_strategy": here})
    workers = student.workers if isinstance(student.workers, int) else (student.workers.min, student.workers.max)
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"config": replace(config, board=board)},
        torch_config=TorchConfig(backend="gloo" if student.device == "cpu" else "nccl"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers,
            use_gpu=student.device == "cuda",
            resources_per_worker={"CPU": 1} if student.device == "cpu" else None,
        ),
        run_config=ray.train.RunConfig(
            name=config.name,
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
            logging_config=LoggingConfig(log_level="ERROR"),
            worker_runtime_env={"env_vars": KEEP_MEMORY} if student.device == "cpu" else None,
            **_storage(config.run),
        ),
    )
    outcome: dict[str, Any] = {}

    def fit() -> None:
        try:
            outcome["result"] = trainer.fit()
        except BaseException as error:  # raised again in the main thread
            outcome["error"] = error

    fitting = threading.Thread(target=fit, daemon=True)
    fitting.start()
    try:
        while True:
            over = not fitting.is_alive()
            try:
                while True:
                    _pass_on(board.get(timeout=0.0 if over else 0.5), tracked, tell)
            except Empty:
                if over:
                    break
    finally:
        board.shutdown(force=True)
    if "error" in outcome:
        raise outcome["error"]
    counts: dict[str, float] = outcome["result"].return_value
    return counts


def _pass_on(message: str | dict[str, float], tracked: Tracker | None, tell: Callable[[str], None]) -> None:
    if isinstance(message, str):
        tell(message)
    elif tracked is not None:
        tracked.log(message)


def _checkpoint(run: Run, name: str) -> str | None:
    """Which checkpoint a training would go on from."""
    key = f"training/{name}/{_SNAPSHOT}"
    if not run.storage.exists(key):
        return None
    results = json.loads(run.storage.read(key))["checkpoint_results"]
    return results[-1]["checkpoint_dir_name"] if results else None


def _line(error: Exception) -> str:
    failures = list(getattr(error, "worker_failures", {}).values())
    return next(iter(str(failures[0] if failures else error).strip().splitlines()), type(error).__name__)


def _tidy(run: Run, name: str) -> None:
    """Remove the checkpoints that nothing can go on from: of other inputs, or cut off while Ray Train noted them."""
    others = [key for key in run.storage.list("training") if not key.startswith(f"training/{name}/")]
    for key in others:
        run.storage.delete(key)
    snapshot = f"training/{name}/{_SNAPSHOT}"
    if run.storage.exists(snapshot):
        try:
            json.loads(run.storage.read(snapshot))
        except ValueError:
            say("train", "the last checkpoint is damaged: begins again")
            remove(run, f"training/{name}")


def remove(run: Run, folder: str) -> None:
    """Remove a folder of the run that nothing needs any more."""
    run.storage.delete_folder(folder)
    if isinstance(run.storage, LocalStorage):
        shutil.rmtree(run.storage.path(folder), ignore_errors=True)  # its empty folders


def _storage(run: Run) -> dict[str, Any]:
    """Where Ray Train keeps its checkpoints: beside the run's artifacts."""
    if isinstance(run.storage, LocalStorage):
        return {"storage_path": str(run.storage.path("training"))}
    parts = urlsplit(run.uri)
    endpoint = urlsplit(os.environ.get("AWS_ENDPOINT_URL", ""))
    options = {"endpoint_override": endpoint.netloc, "scheme": endpoint.scheme} if endpoint.netloc else {}
    return {
        "storage_path": f"{parts.netloc}{parts.path}/training",
        "storage_filesystem": pyarrow.fs.S3FileSystem(**options),
    }


def _cause(error: Exception) -> Exception:
    """The user's mistake behind a failed training, if a worker said so; else the failure itself."""
    for failure in getattr(error, "worker_failures", {}).values():
        found = getattr(failure, "cause", failure)
        if isinstance(found, UserError):
            return UserError(str(found))
    return error
