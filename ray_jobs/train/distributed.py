"""What DeepSpeed needs: its settings, and the one module that it wraps."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import torch

from ray_jobs.train.batches import Batch
from stillhouse.recipe import Student

_BETAS = (0.9, 0.95)
_WEIGHT_DECAY = 0.01
_CLIP = 1.0
_CPU_BUCKET = 10_000_000


class LossPositions(torch.nn.Module):
    """A causal language model that gives logits only where loss is: the head over a whole vocabulary is its most
    expensive part."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> torch.Tensor:
        """Logits [tokens, vocab] at the batch's positions."""
        hidden = self.model.model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
        ).last_hidden_state
        logits: torch.Tensor = self.model.lm_head(hidden[batch.rows, batch.columns])
        return logits


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


def make_engine(deepspeed: Any, model: torch.nn.Module, student: Student, *, steps: int) -> Any:
    """A DeepSpeed engine with AdamW and a warm-up and cosine schedule over `steps`."""
    deepspeed.init_distributed(dist_backend="gloo" if student.device == "cpu" else "nccl")
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=student.learning_rate, betas=_BETAS, weight_decay=_WEIGHT_DECAY, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate_factor(student, steps))
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        lr_scheduler=schedule,
        config={
            "train_micro_batch_size_per_gpu": student.micro_batch_size,
            "gradient_accumulation_steps": micro_batches(student),
            "gradient_clipping": _CLIP,
            "zero_optimization": _zero(student),
            "zero_allow_untested_optimizer": True,
            "bf16": {"enabled": student.device == "cuda"},
        },
    )
    return engine


def _zero(student: Student) -> dict[str, Any]:
    if student.device == "cuda":
        return {"stage": student.zero_stage, "overlap_comm": True}
    # One bucket for all gradients would be written, cleared and copied through memory once more: a quarter of a step.
    return {"stage": student.zero_stage, "overlap_comm": False, "reduce_bucket_size": _CPU_BUCKET}


def micro_batches(student: Student) -> int:
    """Micro-batches that a worker adds up to one optimizer step."""
    return student.batch_size // (student.workers * student.micro_batch_size)


def learning_rate_factor(student: Student, steps: int) -> Callable[[int], float]:
    """Step → share of the peak learning rate: linear warm-up, then a cosine to zero."""
    warmup = max(1, round(student.warmup_ratio * steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))

    return factor
