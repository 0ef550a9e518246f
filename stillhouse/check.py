"""`stillhouse check`: everything that can be known before money is spent."""

from __future__ import annotations

import random
import statistics
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from stillhouse import models
from stillhouse.data import Records
from stillhouse.recipe import Recipe
from stillhouse.signal.alignment import require_same_tokens
from stillhouse.task import render, token_ids

_SAMPLE = 200
"""Prompts that are tokenised to estimate all of them."""


@dataclass(frozen=True)
class Check:
    """What `check` found.

    Attributes:
        records: rows that the recipe asks for.
        labelled: of these, with a gold answer.
        prompt_tokens: mean length of a prompt, in tokens, over a sample.
        longest_prompt: the longest prompt of the sample, in tokens.
        completion_tokens: the most that a completion may take.
        capture_cost: upper estimate for the whole capture, in the recipe's currency.
        warnings: what will not stop the run, but should be known.
    """

    records: int
    labelled: int
    prompt_tokens: float
    longest_prompt: int
    completion_tokens: int
    capture_cost: float
    currency: str
    warnings: tuple[str, ...]


def check_recipe(recipe: Recipe) -> Check:
    """Read what the recipe names.

    Raises:
        UserError: the data or a model cannot be read, or the student's tokenizer is not the teacher's.
    """
    records = Records(recipe)
    tokenizer = models.load_tokenizer(recipe.teacher.model)
    if recipe.student.init.model:
        require_same_tokens(tokenizer, models.load_tokenizer(recipe.student.init.model))
    chosen = set(random.Random(recipe.seed).sample(range(len(records)), min(_SAMPLE, len(records))))
    labelled, sample = 0, []
    for record in records:
        labelled += record.gold is not None
        if record.index in chosen:
            sample.append(record)
    lengths = [len(token_ids(render(recipe.task, record.fields), tokenizer)) for record in sample]
    mean, prices = statistics.fmean(lengths), recipe.prices
    cost = len(records) * (mean * prices.teacher_input + recipe.task.max_tokens * prices.teacher_output) / 1e6
    warnings = []
    if models.is_dequantised(recipe.teacher.model):
        warnings.append("the teacher's weights are dequantised from GGUF: less exact than the original's")
    if len(records) < 500:
        warnings.append(f"{len(records)} records are few: a narrow task usually needs 500 or more")
    room = recipe.teacher.engine.max_model_len - recipe.task.max_tokens
    if max(lengths) > room:
        warnings.append(f"some prompts are longer than the {room} tokens that fit, and will be left out")
    return Check(
        records=len(records),
        labelled=labelled,
        prompt_tokens=mean,
        longest_prompt=max(lengths),
        completion_tokens=recipe.task.max_tokens,
        capture_cost=cost,
        currency=prices.currency,
        warnings=tuple(warnings),
    )


def show(found: Check, console: Console) -> None:
    """Print it."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("records", f"{found.records} ({found.labelled} with a gold answer)")
    table.add_row("prompt", f"{found.prompt_tokens:.0f} tokens on average, {found.longest_prompt} the longest seen")
    table.add_row("completion", f"at most {found.completion_tokens} tokens")
    table.add_row("capture", f"at most {found.capture_cost:.2f} {found.currency} at the recipe's prices")
    console.print(table)
    for warning in found.warnings:
        console.print(f"[yellow]warning:[/] {warning}")
