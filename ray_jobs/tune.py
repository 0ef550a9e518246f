"""Tune the teacher on gold labels, before it is asked: the student's training, with the teacher in its place.

`python -m ray_jobs.tune --recipe PATH --run URI`. What it learns from lies in RUN/teacher/data afterwards, so that
curation can keep it out of everything that is measured.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from ray_jobs.entry import main
from ray_jobs.progress import say
from ray_jobs.train.config import Config
from ray_jobs.train.job import name_of, remove, trained
from ray_jobs.train.model_card import tuned_card
from stillhouse import lineage, models
from stillhouse.data import Record
from stillhouse.errors import UserError
from stillhouse.recipe import Recipe
from stillhouse.run import Run
from stillhouse.signal.schema import Completion, to_row, to_table, write_table
from stillhouse.task import completion_token_ids, gold_completion, render, token_ids
from stillhouse.tuning import DATA, SPLITS, as_student, choose, section_of


def tune(recipe: Recipe, run: Run) -> None:
    """Make RUN/teacher.

    Raises:
        UserError: the recipe does not ask for it, there are too few gold answers, or the teacher cannot be trained.
    """
    began = time.monotonic()
    section = section_of(recipe)
    inputs = lineage.inputs("teacher", recipe, run)
    say(
        "tune",
        f"reads {recipe.data.path}, tunes {recipe.teacher.model} on {section.records} gold answers, writes"
        f" {run.uri}/teacher; ZeRO-{section.zero_stage}, {section.workers} workers",
    )
    models.require(recipe.teacher.model)
    name = name_of(inputs)
    folder = f"training/{name}/{DATA}"
    counts: dict[str, int | float] = {"records": section.records, **_write(recipe, run, folder)}
    config = Config(as_student(recipe), run, name, partial(tuned_card, recipe, inputs), step="teacher", dataset=folder)
    try:
        counts |= trained(config, lambda line: say("tune", _in_section(line)))
    except UserError as error:
        raise UserError(_in_section(str(error))) from error
    for split in SPLITS:
        run.storage.write(f"teacher/{DATA}/{split}.parquet", run.storage.read(f"{folder}/{split}.parquet"))
    run.commit("teacher", recipe=recipe, inputs=inputs, counts=counts, began=began)
    remove(run, "training")


def _write(recipe: Recipe, run: Run, folder: str) -> dict[str, int]:
    """Write the splits as a dataset whose completions are the gold answers, and count their records."""
    tokenizer = models.load_tokenizer(recipe.teacher.model)
    chosen = choose(recipe)
    for split, records in chosen.items():
        rows = _rows(recipe, records, tokenizer)
        description = {"split": split, "recipe": recipe.name, "holds": "gold answers"}
        run.storage.write(f"{folder}/{split}.parquet", write_table(to_table(rows, mode="text"), description))
    return {split: len(records) for split, records in chosen.items()}


def _rows(recipe: Recipe, records: Sequence[Record], tokenizer: Any) -> list[dict[str, Any]]:
    rows = []
    for record in records:
        assert record.gold is not None
        text = gold_completion(recipe.task, record.gold)
        completion = Completion(
            prompt_token_ids=token_ids(render(recipe.task, record.fields), tokenizer),
            text=text,
            token_ids=completion_token_ids(text, tokenizer, ended=True),
            finish_reason="stop",
            token_logprobs=None,
            signal=None,
        )
        rows.append(to_row(record, completion, teacher="gold"))
    return rows


def _in_section(sentence: str) -> str:
    """What the training says of a student's settings, said of the keys that were tuned with."""
    sentence = re.sub(r"\bstudent\.(?=\w)", "teacher.tune.", sentence)
    return re.sub(r"\bstudent\b", "teacher", sentence).replace("curate again", "tune again")


if __name__ == "__main__":
    main("tune", tune)
