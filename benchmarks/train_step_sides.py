"""The sides of `benchmarks.train_step`: a training each, which takes a step whenever it is told to."""

from __future__ import annotations

import contextlib
import io
import os
import time
import warnings
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torch.distributed

from ray_jobs.train import prepare
from ray_jobs.train.batches import Sampler
from ray_jobs.train.distributed import import_deepspeed, make_engine
from ray_jobs.train.learner import Learner
from ray_jobs.train.records import Split, Wanted, unpack
from stillhouse.recipe import Recipe
from stillhouse.run import Run


@dataclass(frozen=True)
class Given:
    """What a side trains.

    Attributes:
        run: its folder `dataset` holds the records.
        folder: of its own.
        steps: optimizer steps that it will be told to take.
        threads: of torch.
        clock: what its seconds are: `wall`, or `cpu`, those that its process was really run in.
    """

    recipe: Recipe
    run: str
    folder: str
    steps: int
    threads: int
    clock: str

    def now(self) -> float:
        """Seconds by its clock."""
        return time.perf_counter() if self.clock == "wall" else time.process_time()


Took = tuple[float, float]
"""Seconds of a step, and of those the seconds inside of the teacher's forward."""


def serve(name: str, given: Given, orders: Connection) -> None:
    """Take one step for each order, and answer with what it took; the first answer says that all is in place."""
    torch.set_num_threads(given.threads)
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(io.StringIO()):  # DeepSpeed and the trainers tell of themselves
        if name == "ours":
            ours(given, orders)
        else:
            from benchmarks.train_step_trl import train  # for its own processes alone: it loads vLLM

            train(name, given, orders)


def batches(given: Given, *, signal: bool) -> tuple[Split, list[list[int]]]:
    """The records and which of them every step takes: those, and in that order, that a training of ours would."""
    student = given.recipe.student
    folder = Path(given.folder) / "train"
    unpack(Run.open(given.run), "train", folder, Wanted(signal=signal, max_length=student.max_length))
    records = Split(folder)
    sampler = Sampler(records.lengths.tolist(), batch_size=student.batch_size, seed=given.recipe.seed)
    return records, [list(sampler.batch(step)) for step in range(given.steps)]


def ours(given: Given, orders: Connection) -> None:
    """The step of `ray_jobs.train.loop`, one worker, records read and collated in it."""
    recipe, student = given.recipe, given.recipe.student
    join_group(Path(given.folder), rank=0, world=1)
    deepspeed = import_deepspeed(student.device)
    records, taken = batches(given, signal=student.kd_weight > 0)
    made = prepare.make(recipe, largest=records.largest, say=lambda _: None)
    engine = make_engine(deepspeed, made.module, student, steps=given.steps, workers=1, universal=False)
    learner = Learner(engine, student, made.pad_id, rank=0, workers=1)
    orders.send(None)
    for step, batch in enumerate(taken):
        orders.recv()
        began = given.now()
        torch.manual_seed(step)
        learner.step(records, batch)
        orders.send((given.now() - began, 0.0))


def join_group(folder: Path, *, rank: int, world: int) -> None:
    """Meet the other processes of a training, as Ray Train's workers do before the loop starts."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
