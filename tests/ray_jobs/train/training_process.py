"""A training of a few steps in processes of its own, without Ray around it: what it holds, and what it writes."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from ray_jobs.train import prepare
from ray_jobs.train.batches import collate
from ray_jobs.train.distributed import accumulated, computes_in, import_deepspeed, make_engine
from ray_jobs.train.job import KEEP_MEMORY
from ray_jobs.train.records import Example
from ray_jobs.train.save import gathered, write_folder
from stillhouse.recipe import Recipe
from stillhouse.signal.sparse import SparseSignal


def train(recipe: Recipe, *, steps: int, length: int, completion: int, saved: Path | None = None) -> list[int]:
    """Train on random tokens; the most memory that each worker held, in bytes.

    Args:
        length: tokens of every record.
        completion: those of its completion.
        saved: where worker 0 writes the student in the middle of the training (`half`) and at its end (`whole`), and
            the weights that it then has in memory (`live.pt`).
    """
    workers = recipe.student.most_workers
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as meeting, _environment(KEEP_MEMORY), context.Pool(workers) as pool:
        given = [(recipe, meeting, rank, workers, steps, length, completion, saved) for rank in range(workers)]
        return pool.starmap(_worker, given, chunksize=1)


def _worker(
    recipe: Recipe, meeting: str, rank: int, workers: int, steps: int, length: int, completion: int, saved: Path | None
) -> int:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(workers)}
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}/met", rank=rank, world_size=workers)
    student = recipe.student
    with contextlib.redirect_stdout(io.StringIO()):  # DeepSpeed tells of itself
        deepspeed = import_deepspeed(student.device)
        made = prepare.make(recipe, largest=0, say=lambda _: None)
        engine = make_engine(deepspeed, made.module, student, steps=steps, workers=workers, universal=False)
        generator = np.random.default_rng(rank)
        for step in range(1, steps + 1):
            for _ in range(accumulated(student, workers)):
                examples = [_example(generator, length, completion) for _ in range(student.micro_batch_size)]
                batch = collate(examples, pad_id=made.pad_id)
                tokens = workers * student.batch_size * completion
                total = engine(batch, tokens, tokens)[0]
                engine.backward(total * workers)
                engine.step()
            if saved is not None and step in (steps // 2, steps):
                with gathered(deepspeed, made.model):
                    if rank == 0:
                        folder = saved / ("whole" if step == steps else "half")
                        write_folder(made.model, made.tokenizer, folder, dtype=computes_in(student), card="")
                        live = {name: value.detach().clone() for name, value in made.model.state_dict().items()}
                        torch.save(live, saved / "live.pt")
    torch.distributed.barrier()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _example(generator: np.random.Generator, length: int, completion: int) -> Example:
    tokens = generator.integers(2, 10, length, dtype=np.int32)
    logprobs = np.log(np.full(4, 0.25, np.float32)).tolist()
    signal = SparseSignal.of([[2, 3, 4, 5]] * completion, [logprobs] * completion)
    return Example(tokens[:-completion], tokens[-completion:], signal, cross_entropy=True)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
