"""The training loop of one worker."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
import torch
import torch.distributed

from ray_jobs.train.batches import Record, collate, length, load_split, slices, step_records, steps_in_epoch, weightless
from ray_jobs.train.distributed import LossPositions, import_deepspeed, make_engine, micro_batches
from ray_jobs.train.model_card import model_card
from ray_jobs.train.student_init import make_student
from stillhouse.errors import UserError
from stillhouse.losses.mix import distillation_loss
from stillhouse.recipe import Recipe, Student
from stillhouse.run import Run

_TELL_EVERY_S = 10.0


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


def train_loop(given: dict[str, Config]) -> None:
    """Train from the last checkpoint, if there is one; worker 0 writes the student."""
    config = given["config"]
    recipe, student = config.recipe, config.recipe.student
    deepspeed = import_deepspeed(student.device)
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    if student.device == "cpu":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // context.get_local_world_size()))
    torch.manual_seed(recipe.seed)

    records, too_long = load_split(config.run, "train", max_length=student.max_length)
    validation, _ = load_split(config.run, "validation", max_length=student.max_length)
    lengths = [length(record) for record in records]
    per_epoch = steps_in_epoch(len(records), student.batch_size)
    steps = min(per_epoch * student.epochs, student.max_steps or per_epoch * student.epochs)
    model, tokenizer = make_student(recipe)
    _check_vocabulary(model.config.vocab_size, records)
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    engine = make_engine(deepspeed, LossPositions(model), student, steps=steps)
    begin = _restored(engine)
    teller = _Teller(config.board if rank == 0 else None, steps, begin)
    teller.say(
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.0f}M parameters, {len(records)} records, {steps} steps"
    )
    if too_long:
        teller.say(f"left out {too_long} records longer than student.max_length ({student.max_length} tokens)")
    if begin:
        teller.say(f"goes on at step {begin} of {steps}")

    metrics: dict[str, float] = {}
    for step in range(begin, steps):
        chosen = step_records(
            lengths,
            step,
            batch_size=student.batch_size,
            workers=workers,
            micro_batch_size=student.micro_batch_size,
            seed=recipe.seed,
        )
        everyone = [records[i] for micro_batch in chosen for part in micro_batch for i in part]
        tokens = sum(len(record["completion_token_ids"]) for record in everyone)
        sums = torch.zeros(2)
        for micro_batch in chosen:
            own = [records[i] for i in micro_batch[rank]]
            batch = collate(own, pad_id=pad_id) if own else weightless(collate(records[:1], pad_id=pad_id))
            batch = batch.to(engine.device)
            losses = distillation_loss(engine(batch), batch.targets, **_weights(student), tokens=tokens)
            # DeepSpeed takes the mean over micro-batches and workers; the loss is divided by the global count already.
            engine.backward(losses.total * workers * micro_batches(student))
            engine.step()
            sums += torch.stack([losses.kd.detach(), losses.ce.detach()]).cpu()
        torch.distributed.all_reduce(sums)
        if not torch.isfinite(sums).all():
            raise UserError(f"the loss is not a number any more at step {step + 1}: lower `student.learning_rate`")
        teller.step(step + 1, kd=float(sums[0]), ce=float(sums[1]), tokens=sum(map(length, everyone)))
        done = step + 1
        if done % per_epoch == 0 or done == steps:
            metrics = _validated(engine, validation, student, pad_id, rank, workers)
            shown = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
            teller.say(f"epoch {done / per_epoch:g}, on the validation split: {shown}")
        if done % student.checkpoint_every == 0 or done == steps:
            _checkpoint(engine, done, metrics)
    if not metrics:  # everything was trained before, and only the student was still to be written
        metrics = _validated(engine, validation, student, pad_id, rank, workers)
    _save(deepspeed, model, tokenizer, config, model_card(recipe, config.inputs, metrics), write=rank == 0)


class _Teller:
    """Progress to the driver's board; silent on every worker but the first."""

    def __init__(self, board: Any, steps: int, begin: int) -> None:
        self._board, self._steps = board, steps
        self._since, self._from, self._tokens = time.monotonic(), begin, 0

    def say(self, text: str) -> None:
        if self._board is not None:
            self._board.put(text)

    def step(self, done: int, *, kd: float, ce: float, tokens: int) -> None:
        self._tokens += tokens
        spent = time.monotonic() - self._since
        if spent < _TELL_EVERY_S and done < self._steps:
            return
        from ray_jobs.progress import duration

        left = duration((self._steps - done) * spent / max(1, done - self._from))
        pace = f"{self._tokens / spent:.0f} tokens/s, {left} left"
        self.say(f"{done}/{self._steps} steps, KD {kd:.4f}, CE {ce:.4f}, {pace}")
        self._since, self._from, self._tokens = time.monotonic(), done, 0


def _weights(student: Student) -> dict[str, float]:
    return {"kd_weight": student.kd_weight, "ce_weight": student.ce_weight, "temperature": student.temperature}


def _check_vocabulary(size: int, records: Sequence[Record]) -> None:
    largest = max(max(map(max, record["top_ids"]), default=0) for record in records if record["top_ids"])
    if largest >= size:
        raise UserError(f"the teacher's signal holds token {largest}, but the student's vocabulary ends at {size - 1}")


def _restored(engine: Any) -> int:
    """Load the last checkpoint, and return the steps that were done before it; 0 without one."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return 0
    with checkpoint.as_directory() as folder:
        _, state = engine.load_checkpoint(folder)
    return int(state["step"])


def _checkpoint(engine: Any, step: int, metrics: dict[str, float]) -> None:
    """Every worker gives its shard; Ray Train puts them together in the run's storage, and prunes older ones."""
    with tempfile.TemporaryDirectory() as folder:
        engine.save_checkpoint(folder, tag="step", client_state={"step": step})
        ray.train.report({"step": step, **metrics}, checkpoint=ray.train.Checkpoint.from_directory(folder))


@torch.no_grad()
def _validated(
    engine: Any, records: Sequence[Record], student: Student, pad_id: int, rank: int, workers: int
) -> dict[str, float]:
    """Mean loss and agreement with the teacher's tokens on held-out records, shared out over the workers."""
    engine.eval()
    by_length = sorted(records, key=length)
    sums = torch.zeros(4)
    # Every worker runs as many batches: under ZeRO-3 each of them takes part in gathering the weights.
    for block in slices(by_length, student.micro_batch_size * workers):
        own = block[rank::workers]
        batch = collate(own, pad_id=pad_id) if own else weightless(collate(block[:1], pad_id=pad_id))
        batch = batch.to(engine.device)
        logits = engine(batch)
        losses = distillation_loss(logits, batch.targets, **_weights(student), tokens=1)
        agree = ((logits.argmax(-1) == batch.targets.ids) * batch.targets.weights).sum()
        sums += torch.stack([losses.kd, losses.ce, agree, batch.targets.weights.sum()]).cpu()
    torch.distributed.all_reduce(sums)
    engine.train()
    kd, ce, agree, tokens = sums.tolist()
    return {"kd": kd / tokens, "ce": ce / tokens, "token_agreement": agree / tokens}


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
            config.run.storage.upload(Path(folder), "student")
