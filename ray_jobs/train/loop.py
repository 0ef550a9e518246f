"""The training loop of one worker."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import ray.train
import torch
import torch.distributed
from ray.train.v2.api.report_config import CheckpointUploadMode

from ray_jobs.train import checkpoints, flops, prepare
from ray_jobs.train.batches import Sampler
from ray_jobs.train.best import Best
from ray_jobs.train.config import Config
from ray_jobs.train.distributed import computes_in, import_deepspeed, make_engine
from ray_jobs.train.learner import Learner
from ray_jobs.train.prepare import Place
from ray_jobs.train.save import gathered, write_folder
from ray_jobs.train.student_init import make_student
from ray_jobs.train.teller import Teller
from stillhouse.errors import UserError
from stillhouse.losses.mix import Objective
from stillhouse.run import cache_folder, digest


class Training:
    """A worker's part of one training; whatever speaks to the other workers is called by all of them."""

    def __init__(self, config: Config) -> None:
        self._config, self._recipe, self._student = config, config.recipe, config.recipe.student
        context = ray.train.get_context()
        self._place = Place(
            rank=context.get_world_rank(),
            workers=context.get_world_size(),
            local_rank=context.get_local_rank(),
            workers_here=context.get_local_world_size(),
        )
        if self._student.device == "cpu":
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // self._place.workers_here))
        deepspeed = import_deepspeed(self._student.device)
        self._gathered = partial(gathered, deepspeed)
        # Another run may be made from the same: each removes its own.
        self._cache = cache_folder("training") / f"{config.name}-{digest(config.run.uri)[:16]}"
        board = config.board if self._place.rank == 0 else None

        self._records, self._held_out = prepare.splits(
            self._recipe, config.run, config.dataset, self._cache, self._place
        )
        prepare.check_memory(self._recipe, self._records, self._place)
        largest = max(self._records.largest, self._held_out.largest)
        self._made = prepare.make(self._recipe, largest=largest, say=Teller(board, 0, 0).say)
        lengths = self._records.lengths.tolist()
        self._sampler = Sampler(lengths, batch_size=self._student.batch_size, seed=self._recipe.seed)
        steps = self._sampler.steps_in_epoch * self._student.epochs
        self._steps = min(steps, self._student.max_steps or steps)
        make = partial(
            make_engine,
            deepspeed,
            self._made.module,
            self._student,
            steps=self._steps,
            workers=self._place.workers,
        )
        self._engine, self._state = self._restored(make)
        self._learner = Learner(
            self._engine, self._student, self._made.pad_id, rank=self._place.rank, workers=self._place.workers
        )
        self._best = Best(config.run, config.name)
        self._teller = Teller(board, self._steps, self._state.step)
        self._checkpointed = time.monotonic()

    def run(self) -> dict[str, float]:
        """Train to the end, and return what the student's manifest counts."""
        state, student = self._state, self._student
        self._introduce()
        self._count_operations()
        every = student.validate_every or self._sampler.steps_in_epoch
        patience = student.patience or self._steps + 1
        while state.step < self._steps and state.worse < patience:
            old = self._step(state.step)
            last = state.step == self._steps
            if last or state.step % every == 0:
                self._validate()
            if not last and (old or state.step % student.checkpoint_every == 0):
                self._checkpoint()
        if state.step < self._steps:
            self._teller.say(f"stopped early: {state.worse} validations in a row without a lower loss")
        return self._finish()

    def _restored(self, make: Any) -> tuple[Any, checkpoints.State]:
        """DeepSpeed's engine and where the training stands: at the last checkpoint, if there is one."""
        workers = self._place.workers
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return make(universal=False), checkpoints.State()
        with checkpoint.as_directory() as given:
            folder = Path(given)
            state = checkpoints.read_state(folder)
            # ZeRO-0 has nothing that is shared out.
            resized = self._student.zero_stage > 0 and state.workers != workers
            if resized:
                folder = self._cache / f"universal-{state.step}-{state.workers}"
                if self._place.local_rank == 0:
                    shutil.rmtree(folder, ignore_errors=True)
                    checkpoints.convert(Path(given), folder)
                torch.distributed.barrier()
            engine = make(universal=resized)
            checkpoints.restore(engine, folder)
        torch.distributed.barrier()
        if resized and self._place.local_rank == 0:
            shutil.rmtree(folder)
        return engine, state

    def _introduce(self) -> None:
        say, student, records = self._teller.say, self._student, self._records
        workers = f"{self._place.workers} worker" + "s" * (self._place.workers > 1)
        say(f"{self._made.parameters / 1e6:.0f}M parameters, {len(records)} records, {self._steps} steps, {workers}")
        if student.kd_weight:
            tail = Objective.of(student, self._recipe.capture.mode).tail
            rest = {"renormalise": "is renormalised away", "bucket": "is one outcome", "sampled": "was drawn from too"}
            say(f"the stored tokens hold {records.mass:.2%} of the teacher's probability; the rest {rest[tail]}")
        if records.left_out:
            say(f"left out {records.left_out} records, longer than student.max_length or with nothing to learn from")
        if self._state.step:
            say(f"goes on at step {self._state.step} of {self._steps}")

    def _step(self, step: int) -> bool:
        """One optimizer step; whether the last checkpoint is older by now than the recipe wants."""
        # Dropout draws what it would have drawn, had there been no restart.
        torch.manual_seed((self._recipe.seed * 1_000_003 + step) * 65_537 + self._place.rank)
        batch = self._sampler.batch(step)
        rate = self._engine.get_lr()[0]
        kd, ce, old = self._learner.step(self._records, batch, flag=self._place.rank == 0 and self._is_old())
        self._state.step = step + 1
        row = {
            "step": step + 1,
            **self._losses(kd, ce, f"the loss at step {step + 1}"),
            "learning_rate": rate,
            "gradient_norm": float(self._engine.get_global_grad_norm() or 0.0),
            "tokens": int(self._records.lengths[batch].sum()),
        }
        self._state.curve.append(row)
        self._teller.step(row)
        return old

    def _count_operations(self) -> None:
        self._teller.flops = self._learner.operations(self._records, self._sampler.batch(0))
        if self._place.rank == 0:
            peak, measured = flops.peak(self._engine.device)
            self._teller.peak = peak * self._place.workers
            source = "measured" if measured else "by its maker"
            self._teller.say(f"a worker's peak is {peak / 1e12:.2f} TFLOP/s, {source}")

    def _losses(self, kd: float, ce: float, what: str) -> dict[str, float]:
        total = self._student.kd_weight * kd + self._student.ce_weight * ce
        if not abs(total) < float("inf"):
            raise UserError(f"{what} is not a number any more: lower `student.learning_rate`")
        return {"loss": total, "kd": kd, "ce": ce}

    def _validate(self) -> None:
        """Score the student on held-out records; the best one so far is kept."""
        kd, ce, agreement = self._learner.validate(self._held_out)
        scores = {**self._losses(kd, ce, "the loss on the validation split"), "agreement": agreement}
        state = self._state
        row = {"step": state.step, **{f"validation_{name}": value for name, value in scores.items()}}
        state.curve.append(row)
        self._teller.track(row)
        shown = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
        epoch = state.step / self._sampler.steps_in_epoch
        if state.best is None or scores["loss"] < state.best["loss"]:
            state.best, state.worse = {"step": state.step, **scores}, 0
            self._keep(state.step)
        else:
            state.worse += 1
        self._teller.say(f"epoch {epoch:.4g}, on the validation split: {shown}")

    def _keep(self, step: int) -> None:
        """Store the student as it is now."""
        base = partial(make_student, self._recipe, say=lambda _: None, whole=True)
        with self._gathered(self._made.model):
            if self._place.rank == 0:
                with tempfile.TemporaryDirectory() as folder:
                    write_folder(
                        self._made.model,
                        self._made.tokenizer,
                        Path(folder),
                        dtype=computes_in(self._student),
                        card="",
                        base=lambda: base(dtype=computes_in(self._student))[0],
                    )
                    self._best.put(step, Path(folder))
        torch.distributed.barrier()

    def _is_old(self) -> bool:
        minutes = self._student.checkpoint_minutes
        return minutes is not None and time.monotonic() - self._checkpointed > minutes * 60

    def _checkpoint(self) -> None:
        """Every worker gives its shard; Ray Train puts them together in the run's storage while training goes on, and
        prunes older ones."""
        folder = tempfile.mkdtemp(prefix="stillhouse-checkpoint-")
        self._state.workers = self._place.workers
        checkpoints.save(self._engine, Path(folder), self._state, rank=self._place.rank)
        if self._place.rank == 0:
            self._best.prune(None if self._state.best is None else int(self._state.best["step"]))
        ray.train.report(
            {"step": self._state.step},
            checkpoint=ray.train.Checkpoint.from_directory(folder),
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            checkpoint_upload_fn=partial(self._stored, ray.train.get_context().get_storage()),
            delete_local_checkpoint_after_upload=True,
        )
        self._checkpointed = time.monotonic()

    def _stored(self, place: Any, checkpoint: ray.train.Checkpoint, name: str) -> ray.train.Checkpoint:
        """Store this worker's shard; called beside the training.

        Not by Arrow, as Ray Train would: its `copy_files` keeps silent where S3 refuses to put a file's parts together.

        Raises:
            StorageError: it cannot be stored.
        """
        self._config.run.storage.upload(Path(checkpoint.path), f"training/{self._config.name}/{name}")
        return ray.train.Checkpoint(f"{place.experiment_fs_path}/{name}", filesystem=place.storage_filesystem)

    def _finish(self) -> dict[str, float]:
        """Worker 0 makes the best model the run's, with its card and its curve."""
        best = self._state.best
        assert best is not None, "the last step is always validated"
        scores = {name: value for name, value in best.items() if name != "step"}
        counts = {"steps": self._state.step, "best_step": best["step"], "workers": self._place.workers}
        if self._student.kd_weight:
            counts["teacher_mass"] = self._records.mass
        if self._place.rank == 0:
            card = self._config.card(scores, {**counts, "records": len(self._records)})
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary)
                self._best.get(int(best["step"]), folder)
                (folder / "README.md").write_text(card, encoding="utf-8")
                curve = "".join(json.dumps(row) + "\n" for row in self._state.curve)
                (folder / "training.jsonl").write_text(curve)
                # An older one stays whole until there is a new one to take its place.
                self._config.run.clear(self._config.step)
                self._config.run.storage.upload(folder, self._config.step)
        if self._place.local_rank == 0:
            shutil.rmtree(self._cache, ignore_errors=True)
        return {**counts, **scores}
