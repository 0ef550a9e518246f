"""Before the first step: the records, whether there is memory enough, and the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from ray_jobs.train import memory
from ray_jobs.train.distributed import computes_in
from ray_jobs.train.lora import add_adapters, enable_checkpointing, parameters
from ray_jobs.train.module import DistilledModel
from ray_jobs.train.records import Split, Wanted, unpack
from ray_jobs.train.shape import model_shape
from ray_jobs.train.student_init import make_student, require_plain_head, source_config, student_config, vocabulary
from stillhouse.errors import UserError
from stillhouse.losses.mix import Objective
from stillhouse.models import load_tokenizer, token_source
from stillhouse.recipe import Recipe
from stillhouse.run import Run
from stillhouse.task import completion_token_ids, gold_completion


@dataclass(frozen=True)
class Place:
    """Which worker this is, of how many."""

    rank: int
    workers: int
    local_rank: int
    workers_here: int


def splits(recipe: Recipe, run: Run, dataset: str, cache: Path, place: Place) -> tuple[Split, Split]:
    """The training and the validation split in the run's folder `dataset`, unpacked by the first worker of each
    machine.

    Raises:
        UserError: as `unpack`.
    """
    student = recipe.student
    wanted = Wanted(
        signal=student.kd_weight > 0,
        max_length=student.max_length,
        gold=_gold(recipe) if student.ce_on == "gold" else None,
    )
    if place.local_rank == 0:
        for split in ("train", "validation"):
            unpack(run, split, cache / split, wanted, dataset=dataset)
    torch.distributed.barrier()
    return Split(cache / "train"), Split(cache / "validation")


def _gold(recipe: Recipe) -> Callable[[str], list[int]]:
    tokenizer = load_tokenizer(token_source(recipe))

    def token_ids(gold: str) -> list[int]:
        return completion_token_ids(gold_completion(recipe.task, gold), tokenizer, ended=True)

    return token_ids


def check_memory(recipe: Recipe, records: Split, place: Place) -> None:
    """See that a worker has the memory that it will need, before anything is loaded.

    Raises:
        UserError: it has not; with the settings that would fit.
    """
    student = recipe.student
    longest = min(int(records.lengths.max()), student.max_length)
    rows = max(load_tokenizer(student.init.model or token_source(recipe)).get_vocab().values()) + 1
    memory.require_fits(
        model_shape(student_config(recipe), length=longest, vocabulary=rows, source=source_config(recipe)),
        student,
        memory.available_memory(student.device, place.workers_here),
        workers=place.workers,
        k=recipe.capture.top_k if student.kd_weight else 0,
        completion=records.longest_completion,
    )
    # Nobody loads weights while another still looks at how much memory is free.
    torch.distributed.barrier()


@dataclass(frozen=True)
class Made:
    """The student before its first step.

    Attributes:
        module: what DeepSpeed wraps.
        model: the transformers model in it, with its adapters.
        parameters: how many it has.
        pad_id: what rows of a micro-batch are filled up with.
    """

    module: DistilledModel
    model: Any
    tokenizer: Any
    parameters: int
    pad_id: int


def make(recipe: Recipe, *, largest: int, say: Callable[[str], None]) -> Made:
    """Load or build the model.

    Args:
        largest: the largest token id in the dataset.

    Raises:
        UserError: as `make_student`; or a token of the dataset that the student has no embedding for.
    """
    student = recipe.student
    quantized = student.lora is not None and student.lora.quantize is not None
    model, tokenizer = make_student(recipe, say=say, dtype=computes_in(student) if quantized else torch.float32)
    size = vocabulary(tokenizer, model)
    if largest >= size:
        raise UserError(f"the dataset holds token {largest}, but the student's vocabulary ends at {size - 1}")
    if student.fused_head:
        require_plain_head(model)
    if student.lora is not None:
        add_adapters(model, student.lora, seed=recipe.seed, say=say)
    if student.gradient_checkpointing:
        enable_checkpointing(model, zero_stage=student.zero_stage)
    pad_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    objective = Objective.of(student, recipe.capture.mode)
    module = DistilledModel(model, objective, vocabulary=size, fused=student.fused_head)
    return Made(module, model, tokenizer, parameters(model), pad_id)
