"""Train the student: Ray Train workers with DeepSpeed, from the dataset to a Hugging Face folder.

A training that was cut off goes on from its last checkpoint in RUN/training, which is named by what it is made from
and removed when the student is there.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from typing import Any
from urllib.parse import urlsplit

import pyarrow.fs
import ray.exceptions
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.config import LoggingConfig
from ray.util.queue import Empty, Queue

from ray_jobs.progress import say
from ray_jobs.train.loop import Config, train_loop
from ray_jobs.train.openai_student import train_openai
from stillhouse import lineage
from stillhouse.errors import UserError
from stillhouse.recipe import Recipe
from stillhouse.run import Run, digest
from stillhouse.storage import LocalStorage

_KEEP_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(2**26),
}
"""For glibc in workers on a CPU: keep freed memory. Else each step's gradients and DeepSpeed's buffers, a gigabyte for
50M parameters, go back to the kernel and are cleared again page by page, which took a quarter of a worker's time."""

_SNAPSHOT = "checkpoint_manager_snapshot.json"
"""Where Ray Train notes which checkpoints are whole."""


def train(recipe: Recipe, run: Run) -> None:
    """Make RUN/student.

    Raises:
        UserError: no dataset, an unknown model, another tokenizer than the teacher's, a loss that is not a number.
    """
    if recipe.student.openai is not None:
        train_openai(recipe, run)
        return
    began = time.monotonic()
    dataset = run.finished("dataset", "curate")
    student = recipe.student
    inputs = lineage.inputs("student", recipe, run)
    name = digest(inputs)[:16]
    say(
        "train",
        f"reads {run.uri}/dataset, writes {run.uri}/student; ZeRO-{student.zero_stage}, {student.workers} workers",
    )
    _tidy(run, name)
    board = Queue()
    trainer = TorchTrainer(
        train_loop,
        train_loop_config={"config": Config(recipe, run, inputs, board)},
        torch_config=TorchConfig(backend="gloo" if student.device == "cpu" else "nccl"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=student.workers,
            use_gpu=student.device == "cuda",
            resources_per_worker={"CPU": 1} if student.device == "cpu" else None,
        ),
        run_config=ray.train.RunConfig(
            name=name,
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
            logging_config=LoggingConfig(log_level="ERROR"),
            worker_runtime_env={"env_vars": _KEEP_MEMORY} if student.device == "cpu" else None,
            **_storage(run),
        ),
    )
    try:
        scores = _fitted(trainer, board)
    except ray.train.v2.api.exceptions.TrainingFailedError as error:
        raise _cause(error) from error
    counts = {"records": dataset.counts["train"], **scores}
    run.commit("student", recipe=recipe, inputs=inputs, counts=counts, began=began)
    _remove(run, "training")


def _fitted(trainer: TorchTrainer, board: Queue) -> dict[str, float]:
    """Train, and print meanwhile what the first worker says; what it returned.

    In the main thread Ray Train would take Ctrl-C for itself, and end this process with status 0.
    """
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
                    say("train", board.get(timeout=0.0 if over else 0.5))
            except Empty:
                if over:
                    break
    finally:
        board.shutdown(force=True)
    if "error" in outcome:
        raise outcome["error"]
    scores: dict[str, float] = outcome["result"].return_value
    return scores


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
            _remove(run, f"training/{name}")


def _remove(run: Run, folder: str) -> None:
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
