"""The training loop of one worker."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
import torch
import torch.distributed

from ray_jobs.train.batches import (
    Batch,
    Record,
    Sampler,
    captured_mass,
    collate,
    length,
    load_split,
    shares,
    slices,
    weightless,
)
from ray_jobs.train.distributed import LossPositions, import_deepspeed, make_engine, micro_batches
from ray_jobs.train.model_card import model_card
from ray_jobs.train.student_init import make_student
from ray_jobs.train.teller import Teller
from stillhouse.errors import UserError
from stillhouse.losses.mix import distillation_loss
from stillhouse.recipe import Recipe, Student
from stillhouse.run import Run


@dataclass(frozen=True)
class Config:
    """What every worker is given.

    Attributes:
        inputs: hashes of what the student is made from, for its model card.
        board: a `ray.util.queue.Queue` that takes what the driver tells the user.
    """

    recipe: Recipe
    run: Run
    inputs: dict[str, str]
    board: Any


def train_loop(given: dict[str, Config]) -> dict[str, float]:
    """Train from the last checkpoint, if there is one; worker 0 writes the student.

    Returns:
        What goes into the student's manifest: steps, the teacher's captured mass, scores on the validation split.
    """
    config = given["config"]
    recipe, student = config.recipe, config.recipe.student
    deepspeed = import_deepspeed(student.device)
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    if student.device == "cpu":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // context.get_local_world_size()))
    torch.manual_seed(recipe.seed)

    distils = student.kd_weight > 0
    records, too_long = load_split(config.run, "train", max_length=student.max_length, with_signal=distils)
    validation, _ = load_split(config.run, "validation", max_length=student.max_length, with_signal=distils)
    sampler = Sampler([length(record) for record in records], batch_size=student.batch_size, seed=recipe.seed)
    steps = sampler.steps_in_epoch * student.epochs
    steps = min(steps, student.max_steps or steps)
    model, tokenizer = make_student(recipe)
    _check_vocabulary(model.config.vocab_size, [*records, *validation])
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    engine = make_engine(deepspeed, LossPositions(model), student, steps=steps)
    begin = _restored(engine)
    teller = Teller(config.board if rank == 0 else None, steps, begin)
    size = sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters()) / 1e6
    teller.say(f"{size:.0f}M parameters, {len(records)} records, {steps} steps")
    mass = {"teacher_mass": captured_mass(records)} if distils else {}
    for held in mass.values():
        teller.say(f"the stored tokens hold {held:.2%} of the teacher's probability; the rest is renormalised away")
    if too_long:
        teller.say(f"left out {too_long} records longer than student.max_length ({student.max_length} tokens)")
    if begin:
        teller.say(f"goes on at step {begin} of {steps}")

    scores: dict[str, float] = {}
    for step in range(begin, steps):
        batch = sampler.batch(step)
        tokens = sum(len(records[i]["completion_token_ids"]) for i in batch)
        sums = torch.zeros(2, device=engine.device)
        for share in shares(
            batch, batch_size=student.batch_size, workers=workers, micro_batch_size=student.micro_batch_size
        ):
            own = _collated([records[i] for i in share[rank]], records[0], pad_id).to(engine.device)
            losses = distillation_loss(engine(own), own.targets, **_weights(student), tokens=tokens)
            # DeepSpeed takes the mean over micro-batches and workers; the loss is divided by the global count already.
            engine.backward(losses.total * workers * micro_batches(student))
            engine.step()
            sums += torch.stack([losses.kd.detach(), losses.ce.detach()])
        torch.distributed.all_reduce(sums)
        kd, ce = sums.tolist()
        _require_number(kd + ce, f"the loss at step {step + 1}")
        done = step + 1
        teller.step(done, kd=kd, ce=ce, tokens=sum(length(records[i]) for i in batch))
        if done % sampler.steps_in_epoch == 0 or done == steps:
            scores = _validated(engine, validation, student, pad_id, rank, workers)
            shown = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
            teller.say(f"epoch {done / sampler.steps_in_epoch:g}, on the validation split: {shown}")
        if done % student.checkpoint_every == 0 and done < steps:
            _checkpoint(engine, done)
    _save(deepspeed, model, tokenizer, config, model_card(recipe, config.inputs, scores), write=rank == 0)
    return {"steps": steps, **mass, **scores}


def _weights(student: Student) -> dict[str, float]:
    return {"kd_weight": student.kd_weight, "ce_weight": student.ce_weight, "temperature": student.temperature}


def _collated(own: Sequence[Record], any_record: Record, pad_id: int) -> Batch:
    """A worker's share; without records it runs another's without weight, since every worker takes part in a step."""
    return collate(own, pad_id=pad_id) if own else weightless(collate([any_record], pad_id=pad_id))


def _check_vocabulary(size: int, records: Sequence[Record]) -> None:
    """Raise `UserError` for a token that the student has no embedding or no logit for."""
    largest = max(
        max(
            max(record["prompt_token_ids"] + record["completion_token_ids"]),
            -1 if record["signal"] is None else int(record["signal"].ids.max()),
        )
        for record in records
    )
    if largest >= size:
        raise UserError(f"the dataset holds token {largest}, but the student's vocabulary ends at {size - 1}")


def _require_number(value: float, what: str) -> None:
    if not math.isfinite(value):
        raise UserError(f"{what} is not a number any more: lower `student.learning_rate`")


def _restored(engine: Any) -> int:
    """Load the last checkpoint, and return the steps that were done before it; 0 without one."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return 0
    with checkpoint.as_directory() as folder:
        _, state = engine.load_checkpoint(folder)
    return int(state["step"])


def _checkpoint(engine: Any, step: int) -> None:
    """Every worker gives its shard; Ray Train puts them together in the run's storage, and prunes older ones."""
    with tempfile.TemporaryDirectory() as folder:
        engine.save_checkpoint(folder, tag="step", client_state={"step": step})
        ray.train.report({"step": step}, checkpoint=ray.train.Checkpoint.from_directory(folder))


@torch.no_grad()
def _validated(
    engine: Any, records: Sequence[Record], student: Student, pad_id: int, rank: int, workers: int
) -> dict[str, float]:
    """Mean losses a token on held-out records, shared out over the workers; and agreement: the share of records all of
    whose tokens are the student's first choice too, each after the teacher's tokens before it.

    Raises:
        UserError: a loss is not a number.
    """
    engine.eval()
    by_length = sorted(records, key=length)
    sums = torch.zeros(5, device=engine.device)
    # Every worker runs as many batches: under ZeRO-3 each of them takes part in gathering the weights.
    for block in slices(by_length, student.micro_batch_size * workers):
        own = block[rank::workers]
        batch = _collated(own, block[0], pad_id).to(engine.device)
        logits = engine(batch)
        losses = distillation_loss(logits, batch.targets, **_weights(student), tokens=1)
        wrong = torch.zeros(len(batch.input_ids), device=engine.device)
        wrong.index_add_(0, batch.rows, (logits.argmax(-1) != batch.targets.ids).float())
        right = (wrong == 0).sum() if own else torch.zeros((), device=engine.device)
        counted = torch.tensor([len(own), float(batch.targets.weights.sum())], device=engine.device)
        sums += torch.cat([torch.stack([losses.kd, losses.ce, right]), counted])
    torch.distributed.all_reduce(sums)
    engine.train()
    kd, ce, agree, count, tokens = sums.tolist()
    _require_number(kd + ce, "the loss on the validation split")
    return {"kd": kd / tokens, "ce": ce / tokens, "agreement": agree / count}


def _save(deepspeed: Any, model: Any, tokenizer: Any, config: Config, card: str, *, write: bool) -> None:
    """Write the Hugging Face folder to the run; under ZeRO-3 every worker helps to gather the weights."""
    parameters = [p for p in model.parameters() if hasattr(p, "ds_id")]
    with deepspeed.zero.GatheredParameters(parameters, modifier_rank=None, enabled=bool(parameters)):
        if not write:
            return
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            (Path(folder) / "README.md").write_text(card, encoding="utf-8")
            # An older student stays whole until there is a new one to take its place.
            config.run.clear("student")
            config.run.storage.upload(Path(folder), "student")
