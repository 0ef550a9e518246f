"""A training step of ours beside the same without distillation, and beside TRL's: `python -m benchmarks.train_step`.

The example's student (6 of SmolLM2-135M's 30 layers), float32, on the CPU. Its records are made here: the teacher's
greedy JSON answers to review sentences with its 64 most probable tokens at each position, once for all sides. These are
trainings in processes of their own, of which one at a time takes a step:

- ours: records by index, collated, through the module and DeepSpeed's engine, one worker: with cross-entropy alone, and
  with forward KL at a temperature of 2 beside it, on 20 and on 64 stored entries a token;
- `trl.SFTTrainer`: cross-entropy on the completions;
- `trl.experimental.gkd.GKDTrainer`, off-policy, and `trl.DistillationTrainer`, GKD's successor, which has no
  off-policy form and is handed the completions that it would have generated. Both run the teacher in their step.

All take the same records in the same batches and micro-batches, and pad as they do by default; tokens are those of
prompts and completions, without padding. All processes run with the settings of glibc's allocator that our job gives
its workers. Sides that a figure compares take turns, step by step. Seconds are those of the clock on the wall;
`--clock cpu --threads 1` tells those of CPU, which other work on the machine hardly changes.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.figures import paired
from benchmarks.signal_storage import EXTRACT, RECIPE, K, Kept, Teacher
from benchmarks.train_step_sides import Given, Took, batches, serve
from ray_jobs.train.job import KEEP_MEMORY
from stillhouse.data import Record, Records
from stillhouse.recipe import Recipe
from stillhouse.recipe_file import load_recipe
from stillhouse.run import Run
from stillhouse.signal.schema import Completion, PartDescription, to_row, write_part
from stillhouse.signal.sparse import SparseSignal

BATCH, MICRO_BATCH = 8, 4
SMALL_K = 20
WARM = 1
"""Rounds that do not count."""

OURS_CE, OURS_KD, OURS_SMALL_KD = "ours, CE", f"ours, KD, k={K}", f"ours, KD, k={SMALL_K}"
SFT, GKD, DISTILLATION = "TRL SFT", "TRL GKD", "TRL Distillation"
TURNS = ((OURS_CE, OURS_SMALL_KD, OURS_KD), (OURS_CE, SFT), (OURS_KD, GKD, DISTILLATION))
"""Sides that are compared, and so take turns; all six at once take more memory than a laptop has."""

Rounds = Mapping[str, Sequence[Took]]


def main() -> int:
    """Make the records, take the steps in turn, print a table and one JSON line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_step", description="A step beside TRL's.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch, on every side")
    parser.add_argument("--clock", choices=["cpu", "wall"], default="wall")
    words = parser.parse_args()
    rounds = words.rounds
    load = os.getloadavg()[0]
    recipe = _recipe()
    distilled, plain = recipe, _with(recipe, kd_weight=0.0, ce_weight=1.0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        runs = _write_records(recipe, folder, (WARM + rounds) * BATCH)
        sides = {
            OURS_CE: ("ours", plain, K),
            OURS_SMALL_KD: ("ours", distilled, SMALL_K),
            OURS_KD: ("ours", distilled, K),
            SFT: ("sft", plain, K),
            GKD: ("gkd", distilled, K),
            DISTILLATION: ("distillation", distilled, K),
        }

        def of(name: str, recipe: Recipe, k: int) -> Given:
            place = tempfile.mkdtemp(prefix=name, dir=folder)
            return Given(recipe, runs[k], place, WARM + rounds, words.threads, words.clock)

        records, taken = batches(of("count", plain, K), signal=False)
        tokens = [int(records.lengths[batch].sum()) for batch in taken[WARM:]]
        found = [
            _take_turns({name: (sides[name][0], of(name, *sides[name][1:])) for name in names}, rounds)
            for names in TURNS
        ]
    for took in found:
        _show(took, tokens)
    figures = list(_figures(*found, tokens))
    print(f"the load was {load:.1f} before; {statistics.fmean(tokens):.0f} tokens a step")
    about = {"rounds": rounds, "tokens": tokens, "threads": words.threads, "clock": words.clock, "load_before": load}
    print(json.dumps({"benchmark": "train_step", **about, "figures": figures}))
    return 0


def _recipe() -> Recipe:
    return _with(load_recipe(RECIPE), workers=1, batch_size=BATCH, micro_batch_size=MICRO_BATCH)


def _with(recipe: Recipe, **changes: Any) -> Recipe:
    return recipe.model_copy(update={"student": recipe.student.model_copy(update=changes)})


def _write_records(recipe: Recipe, folder: Path, count: int) -> dict[int, str]:
    """k -> a run's folder, whose training split holds the teacher's answers with as many entries a token."""
    torch.manual_seed(0)
    texts = [record.fields["text"] for record in itertools.islice(Records(recipe), count)]
    teacher = Teacher()
    kept = list(teacher.write([EXTRACT.format(text=text) for text in texts]))
    runs = {}
    for k in (SMALL_K, K):
        part = PartDescription("inputs", recipe.teacher.model, "", "", "transformers", "topk", k, "float32")
        rows = [_row(i, one, k, teacher.tokenizer.eos_token_id) for i, one in enumerate(kept)]
        runs[k] = str(folder / f"run-{k}")
        Run.open(runs[k]).storage.write("dataset/train.parquet", write_part(rows, part))
    return runs


def _row(index: int, kept: Kept, k: int, eos: int) -> dict[str, Any]:
    ids, logprobs = (values.reshape(-1, K)[:, :k].tolist() for values in (kept.top.ids, kept.top.logprobs))
    signal = SparseSignal.of(ids, logprobs)
    ended = "stop" if kept.tokens[-1] == eos else "length"
    completion = Completion(kept.prompt, kept.text, kept.tokens, ended, kept.token_logprobs, signal)
    return to_row(Record(f"record-{index}", index, {"text": kept.text}, None), completion)


def _take_turns(given: Mapping[str, tuple[str, Given]], rounds: int) -> dict[str, list[Took]]:
    """Every side's steps; which comes first changes from round to round."""
    found: dict[str, list[Took]] = {name: [] for name in given}
    with contextlib.ExitStack() as stack:
        orders = {name: stack.enter_context(_process(side, own)) for name, (side, own) in given.items()}
        for one in orders.values():
            one.recv()
        names = list(orders)
        for number in range(WARM + rounds):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                orders[name].send("step")
                found[name].append(orders[name].recv())
            steps = ", ".join(f"{name} {took[-1][0]:.2f} s" for name, took in found.items())
            print(f"round {number}: {steps}", file=sys.stderr, flush=True)
    return {name: took[WARM:] for name, took in found.items()}


@contextlib.contextmanager
def _process(side: str, given: Given) -> Iterator[Connection]:
    """A side in its own process."""
    context = multiprocessing.get_context("spawn")
    mine, its = context.Pipe()
    process = context.Process(target=serve, args=(side, given, its))
    with mock.patch.dict(os.environ, KEEP_MEMORY):
        process.start()
    its.close()
    try:
        yield mine
    finally:
        mine.close()
        process.join()


def _show(found: Rounds, tokens: Sequence[int]) -> None:
    table = Table("side", "step (s)", "range", "teacher's forward (s)", "tokens/s", box=None)
    for name, took in found.items():
        seconds, teacher = ([one[i] for one in took] for i in (0, 1))
        speed = statistics.median(n / s for n, s in zip(tokens, seconds, strict=True))
        inside = f"{statistics.median(teacher):.2f}" if any(teacher) else ""
        spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
        table.add_row(name, f"{statistics.median(seconds):.2f}", spread, inside, f"{speed:.0f}")
    Console(width=120).print(table)


def _figures(own: Rounds, ce: Rounds, kd: Rounds, tokens: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Of the rounds of each of `TURNS`."""
    for k, name in ((SMALL_K, OURS_SMALL_KD), (K, OURS_KD)):
        seconds, without = ([took[0] for took in own[side]] for side in (name, OURS_CE))
        yield paired(f"a step with KD on {k} entries a token (s), over one with CE alone", seconds, without, most=1.10)

    def speed(took: Sequence[Took], *, teacher: bool = True) -> list[float]:
        return [n / (one[0] - (0 if teacher else one[1])) for n, one in zip(tokens, took, strict=True)]

    yield paired("CE (tokens/s), over TRL's SFT", speed(ce[OURS_CE]), speed(ce[SFT]), least=1.0)
    for other in (GKD, DISTILLATION):
        ours, its = speed(kd[OURS_KD]), kd[other]
        yield paired(f"KD (tokens/s), over {other}", ours, speed(its), least=1.2)
        yield paired(f"KD (tokens/s), over {other} less its teacher's forward", ours, speed(its, teacher=False))


if __name__ == "__main__":
    sys.exit(main())
