"""What a worker holds under ZeRO-3 and under ZeRO-0: `python -m benchmarks.zero_memory`.

The example's student (6 of SmolLM2-135M's 30 layers), float32, two workers over gloo on the CPU, through our module and
DeepSpeed's engine as `ray_jobs.train.loop` makes them; each stage in processes of its own, on the same tokens.

State is weights, gradients and AdamW's moments: all tensors that are alive after a step, each storage once, and those
gradients that were there before it and were then let go. ZeRO-0 lets go of its gradients after each step and ZeRO-3
keeps room for its share of them, so the state between steps is told too. Resident memory is that of the process over
what it was before there was a model; between steps, once the allocator has given back what is free.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import io
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.figures import show, unpaired
from benchmarks.resident import forget_highest, highest, resident
from benchmarks.signal_storage import RECIPE
from benchmarks.train_step_sides import join_group
from ray_jobs.train import prepare
from ray_jobs.train.batches import collate
from ray_jobs.train.distributed import import_deepspeed, make_engine
from ray_jobs.train.records import Example
from stillhouse.recipe import Recipe
from stillhouse.recipe_file import load_recipe

WORKERS, STAGES = 2, (0, 3)
STEPS, ROWS, PROMPT, COMPLETION = 3, 4, 24, 8
_MIB = 2**20


@dataclass(frozen=True)
class Held:
    """What a worker holds, in MiB.

    Attributes:
        state: weights, gradients and moments.
        between: of these, what is alive between two steps.
        resident: the process's memory between two steps, over that before there was a model.
        peak: the same at its highest.
    """

    state: float
    between: float
    resident: float
    peak: float


def main() -> int:
    """Measure every worker of both stages, print a table and one JSON line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zero_memory", description="ZeRO-3 beside ZeRO-0.")
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    found: dict[int, list[Held]] = {stage: [] for stage in STAGES}
    for _ in range(rounds):
        for stage in STAGES:
            found[stage] += _workers(stage)
    figures = [
        _figure("state", found, "state", most=0.6),
        _figure("state between steps", found, "between"),
        _figure("resident between steps", found, "resident"),
        _figure("resident at its peak", found, "peak"),
    ]
    show(figures)
    print(json.dumps({"benchmark": "zero_memory", "workers": WORKERS, "rounds": rounds, "figures": figures}))
    return 0


def _workers(stage: int) -> list[Held]:
    """One training of a few steps; what each of its workers holds."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, context.Pool(WORKERS) as pool:
        return pool.starmap(_worker, [(stage, folder, rank) for rank in range(WORKERS)], chunksize=1)


def _worker(stage: int, folder: str, rank: int) -> Held:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // WORKERS))
    with contextlib.redirect_stdout(io.StringIO()):  # DeepSpeed tells of itself
        return _train(_recipe(stage), Path(folder), rank)


def _recipe(stage: int) -> Recipe:
    recipe = load_recipe(RECIPE)
    sizes = {"batch_size": WORKERS * ROWS, "micro_batch_size": ROWS}
    student = recipe.student.model_copy(update={"zero_stage": stage, "workers": WORKERS, "kd_weight": 0.0, **sizes})
    return recipe.model_copy(update={"student": student})


def _train(recipe: Recipe, folder: Path, rank: int) -> Held:
    student = recipe.student
    join_group(folder, rank=rank, world=WORKERS)
    deepspeed = import_deepspeed(student.device)
    before = resident()
    made = prepare.make(recipe, largest=0, say=lambda _: None)
    engine = make_engine(deepspeed, made.module, student, steps=STEPS, workers=WORKERS, universal=False)
    batch = collate(_examples(rank), pad_id=made.pad_id)
    parameters = list(made.module.parameters())
    gradients, between = 0, 0
    for _ in range(STEPS):
        # Of the last step, not of the model's making.
        forget_highest()
        total = engine(batch, 0, WORKERS * ROWS * COMPLETION)[0]
        engine.backward(total * WORKERS)
        del total
        gradients = _bytes(_gradients(parameters))
        engine.step()
        between = _bytes(_alive())
        gradients -= _bytes(_gradients(parameters))
    peak = highest()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what is free goes back
    return Held((between + gradients) / _MIB, between / _MIB, resident() - before, peak - before)


def _examples(rank: int) -> list[Example]:
    generator = np.random.default_rng(rank)
    tokens = generator.integers(0, 1000, (ROWS, PROMPT + COMPLETION), dtype=np.int32)
    return [Example(row[:PROMPT], row[PROMPT:], None, cross_entropy=True) for row in tokens]


def _alive() -> Iterator[torch.Tensor]:
    """All tensors that this process holds, and their gradients."""
    gc.collect()
    found = [one for one in gc.get_objects() if issubclass(type(one), torch.Tensor)]
    yield from found
    yield from _gradients(found)


def _gradients(tensors: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    return (one.grad for one in tensors if one.is_leaf and one.grad is not None)


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Of the storages, each once."""
    storages = (one.untyped_storage() for one in tensors)
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _figure(name: str, found: Mapping[int, Sequence[Held]], key: str, most: float | None = None) -> dict[str, Any]:
    whole, sharded = ([getattr(one, key) for one in found[stage]] for stage in STAGES)
    return unpaired(f"{name} (MiB a worker), ZeRO-3 over ZeRO-0", sharded, whole, most=most)


if __name__ == "__main__":
    sys.exit(main())
