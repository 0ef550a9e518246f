"""The student's model card."""

from __future__ import annotations

from collections.abc import Mapping

import yaml

from stillhouse.models import is_dequantised
from stillhouse.recipe import Recipe


def model_card(recipe: Recipe, inputs: Mapping[str, str], metrics: Mapping[str, float]) -> str:
    """README.md of the student's folder: what it was made from, how, and what came out."""
    student, init = recipe.student, recipe.student.init
    origin = f"{init.layers} of the teacher's layers" if init.model is None else init.model
    loss = f"{student.kd_weight:g} · KL(T={student.temperature:g}) + {student.ce_weight:g} · cross-entropy"
    hashes = "\n".join(f"- {name}: `{value}`" for name, value in inputs.items())
    scores = "\n".join(f"| {name} | {value:.4f} |" for name, value in metrics.items())
    dequantised = " (weights dequantised from a GGUF file)" if is_dequantised(recipe.teacher.model) else ""
    head = yaml.safe_dump({"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["stillhouse"]})
    return f"""---
{head}---

# {recipe.name}: a distilled student

Distilled by stillhouse from `{recipe.teacher.model}`{dequantised} for one task, which it is good for alone.

- Begins as: {origin}
- Loss: {loss}, on the completion's tokens
- Data: `{recipe.data.path}`, answered by the teacher
- Training: {student.epochs} epochs, batch {student.batch_size}, peak learning rate {student.learning_rate:g}
- Seed: {recipe.seed}

## On the validation split

| score | value |
| --- | --- |
{scores}

## Made from

{hashes}
"""
