"""Train the student: Ray Train workers with DeepSpeed, from the dataset to a Hugging Face folder.

A training that was cut off goes on from its last checkpoint in RUN/training, which is named by what it is made from
and removed when the student is there.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any
from urllib.parse import urlsplit

import pyarrow.fs
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.config import LoggingConfig
from ray.util.queue import Empty, Queue

from ray_jobs.progress import say
from ray_jobs.train.loop import Config, train_loop
from stillhouse import lineage
from stillhouse.errors import UserError
from stillhouse.recipe import Recipe
from stillhouse.run import Run, digest
from stillhouse.storage import LocalStorage


def train(recipe: Recipe, run: Run) -> None:
    """Make RUN/student.

    Raises:
        UserError: no dataset, an unknown model, another tokenizer than the teacher's, a loss that is not a number.
    """
    began = time.monotonic()
    dataset = run.finished("dataset", "curate")
    student = recipe.student
    inputs = lineage.inputs("student", recipe, run)
    name = digest(inputs)[:16]
    say(
        "train",
        f"reads {run.uri}/dataset, writes {run.uri}/student; ZeRO-{student.zero_stage}, {student.workers} workers",
    )
    for key in run.storage.list("training"):
        if not key.startswith(f"training/{name}/"):  # of another recipe: nothing here could go on from it
            run.storage.delete(key)
    run.clear("student")

    board = Queue()
    over = threading.Event()
    teller = threading.Thread(target=_tell, args=(board, over))
    teller.start()
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
            **_storage(run),
        ),
    )
    try:
        result = trainer.fit()
    except ray.train.v2.api.exceptions.TrainingFailedError as error:
        raise _cause(error) from error
    finally:
        over.set()
        teller.join()
        board.shutdown(force=True)
    counts = {"records": dataset.counts["train"], **(result.metrics or {})}
    run.commit("student", recipe=recipe, inputs=inputs, counts=counts, began=began)
    run.storage.delete_folder("training")


def _tell(board: Queue, over: threading.Event) -> None:
    """Print what the first worker says, until training is over and everything was said."""
    while True:
        try:
            say("train", board.get(timeout=1.0))
        except Empty:
            if over.is_set():
                return
        except ray.exceptions.RayError:
            return


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
