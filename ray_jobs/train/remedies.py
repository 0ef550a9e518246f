"""What to change in a recipe whose training does not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from ray_jobs.train.distributed import computes_in
from stillhouse.recipe import Lora, Student


def remedies(student: Student, workers: int) -> Iterator[tuple[str, Student]]:
    """Settings that take less memory, as the recipe says them, the most harmless first; each one alone, then more and
    more of them together."""
    smaller: list[dict[str, Any]] = [
        {"micro_batch_size": size}
        for size in range(student.micro_batch_size - 1, 0, -1)
        if student.micro_batch_size % size == 0
    ]
    together = [*smaller[-1:], *_others(student, workers)]
    growing = [
        {key: value for one in together[:count] for key, value in one.items()} for count in range(2, len(together) + 1)
    ]
    for changes in [*smaller, *_others(student, workers), *growing]:
        if "offload" in changes and student.zero_stage == 0 and "zero_stage" not in changes:
            changes = {"zero_stage": 1, **changes}
        yield ", ".join(_said(key, value) for key, value in changes.items()), student.model_copy(update=changes)


def _others(student: Student, workers: int) -> Iterator[dict[str, Any]]:
    """What the student has not set yet, and would be accepted."""
    if not student.fused_head:
        yield {"fused_head": True}
    if not student.gradient_checkpointing:
        yield {"gradient_checkpointing": True}
    quantized = student.lora is not None and student.lora.quantize is not None
    if student.zero_stage < 3 and workers > 1 and not quantized:
        yield {"zero_stage": 3}
    if student.device == "cuda" and not student.offload.optimizer:
        yield {"offload": student.offload.model_copy(update={"optimizer": True})}
    if student.lora is None and student.init.kind != "fresh":
        yield {"lora": Lora()}
    if computes_in(student) == torch.float32:
        yield {"precision": "bfloat16"}


def _said(key: str, value: Any) -> str:
    shown = {"offload": "{optimizer: true}", "lora": "{}"}.get(key, str(value).lower())
    return f"`{key}: {shown}`"
