"""What DeepSpeed needs: its settings, its optimizer and its schedule."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import torch

from ray_jobs.train.batches import micro_batches
from stillhouse.recipe import Offload, Student

_BETAS = (0.9, 0.95)
CPU_BUCKET = 10_000_000
"""Gradients that a worker on a CPU exchanges at once."""


def import_deepspeed(device: str) -> Any:
    """DeepSpeed, without its compiled extensions on a CPU: no compiler is needed, and no stale lock is left by a
    kill."""
    if device == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed
    import deepspeed.ops

    if device == "cpu":
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def computes_in(student: Student) -> torch.dtype:
    """The type of the weights that the student is run with; master weights are float32 in any case."""
    half = student.precision == "bfloat16" or (student.precision == "auto" and student.device == "cuda")
    return torch.bfloat16 if half else torch.float32


def make_engine(
    deepspeed: Any, module: torch.nn.Module, student: Student, *, steps: int, workers: int, universal: bool
) -> Any:
    """A DeepSpeed engine with AdamW and a warm-up and cosine schedule over `steps`.

    Args:
        universal: it is about to load a checkpoint in DeepSpeed's universal form.
    """
    deepspeed.init_distributed(dist_backend="gloo" if student.device == "cpu" else "nccl")
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = _adamw(student)(trained, lr=student.learning_rate, betas=_BETAS, weight_decay=student.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate_factor(student, steps))
    engine, *_ = deepspeed.initialize(
        model=module,
        model_parameters=trained,
        optimizer=optimizer,
        lr_scheduler=schedule,
        config={
            "train_micro_batch_size_per_gpu": student.micro_batch_size,
            "gradient_accumulation_steps": accumulated(student, workers),
            "gradient_clipping": student.max_grad_norm,
            "zero_optimization": _zero(student),
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "bf16": {"enabled": computes_in(student) == torch.bfloat16},
            "checkpoint": {"load_universal": universal},
        },
    )
    if student.zero_stage == 3 and student.offload == Offload():
        _share_masters(engine.optimizer)
    return engine


def _share_masters(optimizer: Any) -> None:
    """Let a worker's share of float32 weights be its master weights too.

    DeepSpeed means to, but compares a device with a device's name (`_create_fp32_partitions` in
    https://github.com/deepspeedai/DeepSpeed/blob/v0.19.8/deepspeed/runtime/zero/stage3.py), and keeps a copy: 4 of 20
    bytes a weight. Whatever it does to them afterwards, it does in place.
    """
    for weights, masters in zip(
        optimizer.fp16_partitioned_groups_flat, optimizer.fp32_partitioned_groups_flat, strict=True
    ):
        if (weights.dtype, weights.device) == (masters.dtype, masters.device):
            masters.data = weights.data


def accumulated(student: Student, workers: int) -> int:
    """Micro-batches that each of so many workers adds up to one optimizer step."""
    return micro_batches(batch_size=student.batch_size, workers=workers, micro_batch_size=student.micro_batch_size)


def _adamw(student: Student) -> Callable[..., torch.optim.Optimizer]:
    if student.device == "cuda" and student.offload.optimizer:
        # Where the state lies in the machine's memory, the step is the CPU's, and DeepSpeed has vectorised it.
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        return DeepSpeedCPUAdam
    return lambda *args, **settings: torch.optim.AdamW(*args, fused=True, **settings)


def _zero(student: Student) -> dict[str, Any]:
    settings: dict[str, Any] = {"stage": student.zero_stage, "overlap_comm": student.device == "cuda"}
    if student.offload.optimizer:
        settings["offload_optimizer"] = {"device": "cpu", "pin_memory": student.device == "cuda"}
    if student.offload.parameters:
        settings["offload_param"] = {"device": "cpu", "pin_memory": student.device == "cuda"}
    if student.device == "cpu":
        # One bucket for all gradients would be written, cleared and copied through memory once more: a quarter of a
        # step.
        settings["reduce_bucket_size"] = CPU_BUCKET
    return settings


def learning_rate_factor(student: Student, steps: int) -> Callable[[int], float]:
    """Step → share of the peak learning rate: linear warm-up, then a cosine to zero."""
    warmup = max(1, round(student.warmup_ratio * steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))

    return factor
