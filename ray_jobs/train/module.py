"""The one module that DeepSpeed wraps: a causal language model that gives its loss."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from ray_jobs.train.batches import Batch
from stillhouse.losses.linear import linear_distillation_loss
from stillhouse.losses.mix import Losses, Objective, Targets, distillation_loss


class FusedHead(torch.nn.Module):
    """The model's head and the loss in one, so that the logits of a whole batch never exist.

    It holds the head's own parameters, under a second name as tied embeddings do: whatever gathers a module's
    parameters before its forward, as ZeRO-3 does, gathers them here.
    """

    def __init__(self, head: Any, objective: Objective, vocabulary: int) -> None:
        super().__init__()
        self.weight = head.weight
        self.bias = head.bias
        self._objective, self._vocabulary = objective, vocabulary

    def forward(self, hidden: torch.Tensor, targets: Targets, kd_tokens: int, ce_tokens: int, choices: bool) -> Losses:
        """The losses at hidden states [tokens, hidden]."""
        return linear_distillation_loss(
            hidden,
            self.weight,
            targets,
            self._objective,
            kd_tokens=kd_tokens,
            ce_tokens=ce_tokens,
            bias=self.bias,
            vocabulary=self._vocabulary,
            choices=choices,
        )


class DistilledModel(torch.nn.Module):
    """A causal language model that computes its head only where loss is: the head over a whole vocabulary is its most
    expensive part."""

    def __init__(self, model: Any, objective: Objective, *, vocabulary: int, fused: bool) -> None:
        super().__init__()
        self.model = model
        self._objective, self._vocabulary = objective, vocabulary
        self.fused_head = FusedHead(model.get_output_embeddings(), objective, vocabulary) if fused else None

    def forward(
        self, batch: Batch, kd_tokens: int, ce_tokens: int, choices: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """The losses of a micro-batch: their weighted sum, the divergence and the cross-entropy (detached).

        Args:
            kd_tokens: tokens of the whole optimizer step that carry the divergence, over all micro-batches and workers.
            ce_tokens: those that carry cross-entropy.
            choices: also give the student's first choice at each position, [tokens], int64.
        """
        inputs = {
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask,
            "position_ids": batch.position_ids,
            "use_cache": False,
        }
        if self.fused_head is not None:
            trunk = getattr(self.model, self.model.base_model_prefix)
            hidden = trunk(**inputs).last_hidden_state[batch.rows, batch.columns]
            losses: Losses = self.fused_head(hidden, batch.targets, kd_tokens, ce_tokens, choices)
        else:
            logits = self.model(**inputs).logits[batch.rows, batch.columns, : self._vocabulary]
            losses = distillation_loss(logits, batch.targets, self._objective, kd_tokens=kd_tokens, ce_tokens=ce_tokens)
            if choices:
                losses = replace(losses, choices=logits.argmax(-1))
        return losses.total, losses.kd.detach(), losses.ce.detach(), losses.choices
