"""An ensemble's parts, one of each teacher, made into the capture's."""

from __future__ import annotations

from typing import Any

import pyarrow
import ray.data

from ray_jobs.capture.plan import Plan, planned
from ray_jobs.capture.worker import final_key, part_key
from stillhouse.data import FIRST_TEACHER, Record
from stillhouse.ensemble import majority, mean
from stillhouse.errors import UserError
from stillhouse.recipe import Ensemble, Recipe
from stillhouse.run import Run
from stillhouse.signal.schema import (
    Completion,
    description_of,
    failed_row,
    read_table,
    signals,
    to_row,
    to_table,
    write_table,
)
from stillhouse.teachers import names

Answered = dict[str, dict[str, tuple[str | None, list[Completion]]]]
"""By teacher and record: the error, or the completions."""


def combine(recipe: Recipe, run: Run, plan: Plan) -> None:
    """Write the parts of RUN/capture/parts from those of the teachers.

    Raises:
        UserError: the teachers' token ids or distributions have nothing in common.
    """

    def write(row: dict[str, Any]) -> dict[str, Any]:
        part = int(row["part"])
        try:
            run.storage.write(final_key(part), combined(recipe, run, part))
        except UserError as error:
            return {"part": part, "error": str(error)}
        return {"part": part, "error": ""}

    work = ray.data.from_items([{"part": part} for part in range(plan.parts)], override_num_blocks=plan.parts)
    for row in work.map(write, num_cpus=1).iter_rows():
        if row["error"]:
            raise UserError(row["error"])


def combined(recipe: Recipe, run: Run, part: int) -> bytes:
    """One part of the capture, as Parquet, from the teachers' parts of that number. Raises as `combine`."""
    assert recipe.ensemble is not None
    tables = {}
    for name in names(recipe):
        key = part_key(recipe, name, part)
        tables[name] = read_table(run.storage.read(key), name=key)
    descriptions = {name: description_of(table) for name, table in tables.items()}
    first = descriptions[FIRST_TEACHER]
    for name, description in descriptions.items():
        if description["tokenizer_hash"] != first["tokenizer_hash"]:
            raise UserError(
                f"the teacher {name!r} has another tokenizer than the first one, and their token ids cannot be stored"
                " side by side: take teachers of one family, or `capture.mode: text` with a student of its own"
            )
    models = {name: description["model"] for name, description in descriptions.items()}
    description = {**first, "model": " + ".join(models.values()), "engine": _joined(descriptions, "engine")}
    if recipe.ensemble.combine in ("each", "route"):
        table = pyarrow.concat_tables([table.replace_schema_metadata() for table in tables.values()])
        table = table.sort_by([("index", "ascending"), ("sample", "ascending")])
        return write_table(table, description)
    answered = {name: _answered(table) for name, table in tables.items()}
    rows = [row for record in planned(run, part) for row in _rows(recipe, recipe.ensemble, record, answered)]
    return write_table(to_table(rows, mode=recipe.capture.mode), description)


def _rows(recipe: Recipe, ensemble: Ensemble, record: Record, answered: Answered) -> list[dict[str, Any]]:
    weights = {FIRST_TEACHER: ensemble.weight, **{member.name: member.weight for member in ensemble.members}}
    errors = {name: error for name, found in answered.items() if (error := found[record.id][0])}
    if ensemble.combine == "mean":
        if errors:
            return [failed_row(record, _told(errors))]
        together = [found[record.id][1][0] for found in answered.values()]
        one = mean(together, list(weights.values()), k=recipe.capture.top_k)
        return [to_row(record, one, 0, FIRST_TEACHER)]
    voters = [name for name in answered if name not in errors]
    if not voters:
        return [failed_row(record, _told(errors))]
    completions = [answered[name][record.id][1][0] for name in voters]
    winner, agreement = majority(
        recipe.task, [completion.text for completion in completions], [weights[name] for name in voters]
    )
    return [to_row(record, completions[winner], 0, voters[winner], agreement)]


def _answered(table: pyarrow.Table) -> dict[str, tuple[str | None, list[Completion]]]:
    """By record: the error, or the completions in the order of their samples."""
    found: dict[str, tuple[str | None, list[Completion]]] = {}
    columns = [
        "id",
        "error",
        "prompt_token_ids",
        "completion",
        "completion_token_ids",
        "finish_reason",
        "token_logprobs",
    ]
    for row, signal in zip(table.select(columns).to_pylist(), signals(table), strict=True):
        if row["error"] is not None:
            found[row["id"]] = (row["error"], [])
            continue
        completion = Completion(
            prompt_token_ids=row["prompt_token_ids"],
            text=row["completion"],
            token_ids=row["completion_token_ids"],
            finish_reason=row["finish_reason"],
            token_logprobs=row["token_logprobs"],
            signal=signal,
        )
        found.setdefault(row["id"], (None, []))[1].append(completion)
    return found


def _told(errors: dict[str, str]) -> str:
    return "; ".join(f"the teacher {name!r}: {error}" for name, error in errors.items())


def _joined(descriptions: dict[str, dict[str, Any]], name: str) -> str:
    return " + ".join(dict.fromkeys(str(description[name]) for description in descriptions.values()))
