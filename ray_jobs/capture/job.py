"""Capture a recipe's prompts: the teacher's completions with top-k logprobs, by vLLM engines in Ray Data actors.

The work is cut into parts that depend on nothing but the recipe and the data. A part is written whole or not at all; a
restart does only what is missing; the manifest comes last.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import ray
import ray.data

from ray_jobs.capture.worker import COUNTS, CaptureWorker, pack, part_key
from ray_jobs.engine import actor_resources
from ray_jobs.progress import Progress, say
from stillhouse import lineage, models
from stillhouse.data import Record, load_records
from stillhouse.errors import UserError
from stillhouse.recipe import Recipe
from stillhouse.run import Run, digest
from stillhouse.signal.schema import RECORD_SCHEMA, description_of, read_table


def capture(recipe: Recipe, run: Run) -> None:
    """Make RUN/capture.

    Raises:
        UserError: the data or the teacher cannot be read, or no prompt fits the teacher's context.
    """
    began = time.monotonic()
    inputs = lineage.inputs("capture", recipe, run)
    made_from = digest(inputs)
    say("capture", f"reads {recipe.data.path}, asks {recipe.teacher.model}, writes {run.uri}/capture")
    records = load_records(recipe)
    if models.is_dequantised(recipe.teacher.model):
        say("capture", "the teacher's weights are dequantised from GGUF: less exact than the original's")
    models.load_tokenizer(recipe.teacher.model)  # an unknown model fails here, before any actor starts

    size = recipe.capture.part_size
    parts = [records[start : start + size] for start in range(0, len(records), size)]
    # Before any part goes, so that a capture without all its parts is not a finished one.
    run.storage.delete("capture/manifest.json")
    counts = _finished_parts(run, parts, made_from)
    missing = [i for i in range(len(parts)) if i not in counts]
    if missing:
        before = sum(len(parts[i]) for i in counts)
        if before:
            say("capture", f"goes on: {before} of {len(records)} records are there")
        progress = Progress("capture", len(records), "records", done=before)
        say("capture", "starts the teacher")
        for done in _answered(recipe, run, {i: parts[i] for i in missing}, made_from):
            part = done.pop("part")
            counts[part] = Counter(done)
            progress.add(len(parts[part]))

    total = sum(counts.values(), Counter())
    if too_long := total["too_long"]:
        say(
            "capture",
            f"left out {too_long} records whose prompt is longer than max_model_len less max_tokens",
        )
    if not total["records"]:
        raise UserError("no prompt fits the teacher's context: raise `teacher.engine.max_model_len`")
    run.commit("capture", recipe=recipe, inputs=inputs, counts=dict(total), began=began)
    say("capture", f"{total['records']} records, {total['prompt_tokens'] + total['completion_tokens']} tokens")


def _finished_parts(run: Run, parts: Sequence[Sequence[Record]], made_from: str) -> dict[int, Counter[str]]:
    """Counts of the parts that are there and were made from the same inputs; other files are removed."""
    counts: dict[int, Counter[str]] = {}
    expected = {part_key(i): i for i in range(len(parts))}
    for key in run.storage.list("capture/parts"):
        data = run.storage.read(key)
        try:
            table = read_table(data, name=key)
        except UserError:
            table = None
        if (
            table is None
            or key not in expected
            or description_of(table).get("made_from") != made_from
            or not table.schema.equals(RECORD_SCHEMA)
        ):
            run.storage.delete(key)
            continue
        part = expected[key]
        counts[part] = Counter(
            records=table.num_rows,
            too_long=len(parts[part]) - table.num_rows,
            prompt_tokens=sum(len(ids) for ids in table["prompt_token_ids"].to_pylist()),
            completion_tokens=sum(len(ids) for ids in table["completion_token_ids"].to_pylist()),
        )
    return counts


def _answered(recipe: Recipe, run: Run, parts: Mapping[int, list[Record]], made_from: str) -> Iterator[dict[str, int]]:
    """Yield the number and the counts of each part as it is written. Raises `UserError` where one could not be."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    actors = min(recipe.capture.actors, len(parts))
    work = ray.data.from_items([pack(i, records) for i, records in parts.items()], override_num_blocks=len(parts))
    answered = work.map_batches(
        CaptureWorker,
        fn_constructor_args=(recipe, run, made_from),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=actors),
        **actor_resources(recipe.teacher.engine, actors),
    )
    for row in answered.iter_rows():
        if row["error"]:
            raise UserError(row["error"])
        yield {name: int(row[name]) for name in ("part", *COUNTS)}
