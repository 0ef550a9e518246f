"""TRL's sides of `benchmarks.train_step`."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, TrainerCallback
from trl import DistillationConfig, DistillationTrainer, SFTConfig, SFTTrainer
from trl.experimental.gkd import GKDConfig, GKDTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from benchmarks.train_step_sides import Given, batches
from ray_jobs.train.distributed import accumulated
from ray_jobs.train.records import Example
from ray_jobs.train.student_init import make_student
from stillhouse import models
from stillhouse.recipe import Recipe

_FORWARD_KL = 0.0
"""TRL's `beta` of it."""


def train(name: str, given: Given, orders: Connection) -> None:
    """A trainer of TRL's on the same batches. Its step lasts from one `on_step_end` to the next, so that the loading
    and padding of its batch are in it, as they are in ours."""
    records, taken = batches(given, signal=False)
    model, tokenizer = make_student(given.recipe, say=lambda _: None)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    examples = [one for batch in taken for one in records.examples(batch)]
    trainer = _TRAINERS[name](given, model, tokenizer, examples)
    teacher = _Watch(trainer.teacher_model, given.now) if hasattr(trainer, "teacher_model") else None
    trainer.add_callback(_OnOrder(orders, teacher, given.now))
    trainer.train()


def _sft(given: Given, model: Any, tokenizer: Any, examples: list[Example]) -> Any:
    """Cross-entropy on the completions."""
    config = SFTConfig(**_settings(given), shuffle_dataset=False, train_sampling_strategy="sequential")
    return SFTTrainer(model, args=config, train_dataset=_tokens(examples), processing_class=tokenizer)


def _gkd(given: Given, model: Any, tokenizer: Any, examples: list[Example]) -> Any:
    """Forward KL from a live teacher on the completions that are there."""
    config = GKDConfig(
        **_settings(given),
        train_sampling_strategy="sequential",
        lmbda=0.0,  # never on text of the student's own
        beta=_FORWARD_KL,
        temperature=given.recipe.student.temperature,
    )
    return GKDTrainer(
        model,
        teacher_model=_teacher(given.recipe),
        args=config,
        data_collator=DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id),
        train_dataset=_tokens(examples),
        processing_class=tokenizer,
    )


def _distillation(given: Given, model: Any, tokenizer: Any, examples: list[Example]) -> Any:
    """GKD's successor, which has no off-policy form: it is handed the completions instead of generating them."""
    prompts = [example.prompt.tolist() for example in examples]
    written = {tuple(prompt): example.completion.tolist() for prompt, example in zip(prompts, examples, strict=True)}

    class Handed(DistillationTrainer):  # type: ignore[misc]
        def _tokenize_prompts(self, chosen: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
            return [prompts[int(one)] for one in chosen], None, {}

        def _generate_single_turn(self, prompt_ids: list[list[int]], *_: Any, **__: Any) -> list[list[int]]:
            return [written[tuple(one)] for one in prompt_ids]

    config = DistillationConfig(
        **_settings(given),
        shuffle_dataset=False,
        beta=_FORWARD_KL,
        temperature=given.recipe.student.temperature,
    )
    dataset = Dataset.from_dict({"prompt": [str(i) for i in range(len(prompts))]})
    teacher = _teacher(given.recipe)
    return Handed(model, teacher_model=teacher, args=config, train_dataset=dataset, processing_class=tokenizer)


def _settings(given: Given) -> dict[str, Any]:
    """What is the same on both sides; the rest is TRL's default."""
    student = given.recipe.student
    return {
        "output_dir": given.folder,
        "per_device_train_batch_size": student.micro_batch_size,
        "gradient_accumulation_steps": accumulated(student, 1),
        "max_steps": given.steps,
        "learning_rate": student.learning_rate,
        "max_grad_norm": student.max_grad_norm,
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    }


def _tokens(examples: list[Example]) -> Dataset:
    """A dataset that is tokenised already, with loss on the completions alone."""
    return Dataset.from_list(
        [
            {
                "input_ids": [*one.prompt.tolist(), *one.completion.tolist()],
                "labels": [-100] * len(one.prompt) + one.completion.tolist(),
            }
            for one in examples
        ]
    )


def _teacher(recipe: Recipe) -> Any:
    return AutoModelForCausalLM.from_pretrained(models.resolve(recipe.teacher.model), dtype=torch.float32).eval()


class _Watch:
    """Seconds that a teacher's forward passes take: of the whole model where that is called, else of its trunk."""

    def __init__(self, teacher: Any, now: Callable[[], float]) -> None:
        self._now = now
        self._seconds, self._began, self._depth = 0.0, 0.0, 0
        for module in (teacher, teacher.base_model):
            module.register_forward_pre_hook(self._enter)
            module.register_forward_hook(self._leave)

    def _enter(self, *_: Any) -> None:
        if not self._depth:
            self._began = self._now()
        self._depth += 1

    def _leave(self, *_: Any) -> None:
        self._depth -= 1
        if not self._depth:
            self._seconds += self._now() - self._began

    def taken(self) -> float:
        """The seconds since the last call."""
        found, self._seconds = self._seconds, 0.0
        return found


class _OnOrder(TrainerCallback):  # type: ignore[misc]
    """Waits for an order before each step, and answers after it."""

    def __init__(self, orders: Connection, teacher: _Watch | None, now: Callable[[], float]) -> None:
        self._orders, self._teacher, self._now, self._began = orders, teacher, now, 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._orders.send(None)
        self._wait()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        took = self._now() - self._began
        self._orders.send((took, self._teacher.taken() if self._teacher else 0.0))
        if state.global_step < state.max_steps:
            self._wait()

    def _wait(self) -> None:
        self._orders.recv()
        self._began = self._now()


_TRAINERS: dict[str, Callable[[Given, Any, Any, list[Example]], Any]] = {
    "sft": _sft,
    "gkd": _gkd,
    "distillation": _distillation,
}
