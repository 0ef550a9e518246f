"""The Ray Data actor that holds one teacher engine and writes the parts."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np

from ray_jobs.engine import BatchEngine
from stillhouse.data import Record
from stillhouse.errors import UserError
from stillhouse.models import load_tokenizer
from stillhouse.recipe import Recipe
from stillhouse.run import Run
from stillhouse.signal.alignment import template_hash, tokenizer_hash
from stillhouse.signal.schema import PartDescription, to_row, write_part
from stillhouse.task import render, token_ids

COUNTS = ("records", "too_long", "prompt_tokens", "completion_tokens")
"""What is counted of a part; `too_long` prompts are left out of it."""


def part_key(part: int) -> str:
    """Where a part lies in the run."""
    return f"capture/parts/part-{part:05d}.parquet"


def pack(part: int, records: list[Record]) -> dict[str, Any]:
    """A part's work as a row of a Ray dataset."""
    return {"part": part, "records": json.dumps([asdict(record) for record in records])}


class CaptureWorker:
    """Writes a part where it is made, so that signal never travels through the driver."""

    def __init__(self, recipe: Recipe, run: Run, made_from: str) -> None:
        self.recipe, self.run = recipe, run
        self.tokenizer = load_tokenizer(recipe.teacher.model)
        self.engine = BatchEngine(recipe.teacher.model, recipe.teacher.engine, recipe.task, top_k=recipe.capture.top_k)
        self.description = PartDescription(
            made_from=made_from,
            model=recipe.teacher.model,
            tokenizer_hash=tokenizer_hash(self.tokenizer),
            template_hash=template_hash(self.tokenizer),
            engine=f"vllm {self.engine.version}",
            mode="topk",
            k=recipe.capture.top_k,
            dtype=self.engine.dtype,
        )

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """Answer one part's prompts and write them; gives back counts alone.

        A mistake of the user goes back as `error`, a sentence: Ray would wrap an exception in a traceback.
        """
        part = int(batch["part"][0])
        records = [Record(**record) for record in json.loads(str(batch["records"][0]))]
        try:
            counts = self._write(part, records)
        except UserError as error:
            return {"part": [part], "error": [str(error)], **{name: [0] for name in COUNTS}}
        return {"part": [part], "error": [""], **{name: [counts[name]] for name in COUNTS}}

    def _write(self, part: int, records: list[Record]) -> dict[str, int]:
        task = self.recipe.task
        prompts = [token_ids(render(task, record.fields), self.tokenizer) for record in records]
        longest = self.engine.max_model_len - task.max_tokens
        fitting = [(record, ids) for record, ids in zip(records, prompts, strict=True) if len(ids) <= longest]
        completions = self.engine.complete([ids for _, ids in fitting])
        rows = [to_row(record, completion) for (record, _), completion in zip(fitting, completions, strict=True)]
        self.run.storage.write(part_key(part), write_part(rows, self.description))
        return {
            "records": len(rows),
            "too_long": len(records) - len(rows),
            "prompt_tokens": sum(len(c.prompt_token_ids) for c in completions),
            "completion_tokens": sum(len(c.token_ids) for c in completions),
        }
