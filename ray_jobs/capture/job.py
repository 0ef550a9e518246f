"""Capture a recipe's prompts: the teachers' completions with their distributions, by Ray Data actors.

The work is cut into parts that depend on nothing but the recipe and the data. A part is written whole or not at all; a
restart does only what is missing, and asks again what failed; the manifest comes last.
"""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import ray
import ray.data
from ray.exceptions import RayActorError
from ray.util.annotations import RayDeprecationWarning

from ray_jobs.capture.batch_api import FOLDER as BATCHES
from ray_jobs.capture.combine import combine
from ray_jobs.capture.outcome import FAILED, outcome
from ray_jobs.capture.plan import WORK, Plan, make_plan
from ray_jobs.capture.spending import ledger, shared
from ray_jobs.capture.worker import CaptureWorker, Written, at_once, counts_of, final_key, part_key, part_there
from ray_jobs.placement import actor_options, pool
from ray_jobs.progress import Progress, say
from stillhouse import lineage, models
from stillhouse.cost.billing import FOLDER as SPENDING
from stillhouse.data import FIRST_TEACHER
from stillhouse.errors import UserError
from stillhouse.recipe import Recipe, Teacher
from stillhouse.run import Run, digest
from stillhouse.teachers import names, section_of, tuned
from stillhouse.timed import Timed, counted

LEDGER = "capture/ledger.json"

MAX_DEATHS = 10
"""How often a worker may die over one part, and it is asked again; Ray Data would do so for ever."""


def capture(recipe: Recipe, run: Run) -> None:
    """Make RUN/capture.

    Raises:
        UserError: the data or a teacher cannot be read or reached, the budget is spent, or too many records failed.
    """
    began = time.monotonic()
    inputs = lineage.inputs("capture", recipe, run)
    recipe = tuned(recipe, run)
    made_from = digest(inputs)
    teachers = {name: section_of(recipe, name) for name in names(recipe)}
    asked = ", ".join(section.model for section in teachers.values())
    say("capture", f"reads {recipe.data.path}, asks {asked}, writes {run.uri}/capture")
    for section in teachers.values():
        if section.url is None:
            models.require(section.model)  # an unknown model fails here, before any actor starts
            if models.is_dequantised(section.model):
                say(
                    "capture",
                    f"the weights of {section.model} are dequantised from GGUF: less exact than the original's",
                )
    plan = make_plan(recipe, run, made_from)
    # Before any part goes, so that a capture without all its parts is not a finished one.
    run.storage.delete("capture/manifest.json")
    _clear(recipe, run, plan)

    remote = any(section.url is not None for section in teachers.values())
    with shared(recipe, run) if remote else nullcontext():
        passes = [_pass(recipe, run, plan, name) for name in teachers]
    if recipe.ensemble is not None:
        combine(recipe, run, plan)
    total = outcome(run, plan)
    failed = total["failed"]
    share = failed / plan.records
    if share > recipe.capture.max_failed:
        raise UserError(
            f"{failed} of {plan.records} records failed ({share:.1%}, and `capture.max_failed` is"
            f" {recipe.capture.max_failed:.1%}): {run.uri}/{FAILED} says why; what succeeded is kept, and"
            " the same command asks the failed ones again"
        )
    start = Timed(sum(each.seconds for each in passes), sum(each.tokens for each in passes))
    counts: dict[str, int | float] = {**total, **counted(start)}
    if remote:
        account = ledger(run)
        run.storage.write(LEDGER, json.dumps(account, indent=2).encode())
        counts["cost"] = account["cost"]
    # What it cost and how it was asked is no part of what was captured.
    bookkeeping = (WORK, SPENDING, BATCHES, LEDGER)
    run.commit("capture", recipe=recipe, inputs=inputs, counts=counts, began=began, leave_out=bookkeeping)
    run.storage.delete_folder(WORK)
    if failed:
        say("capture", f"{failed} records failed: {run.uri}/{FAILED} says why")
    say("capture", f"{total['records']} records, {total['prompt_tokens'] + total['completion_tokens']} tokens")


def _clear(recipe: Recipe, run: Run, plan: Plan) -> None:
    """Remove what an earlier recipe or an earlier plan left."""
    expected = {part_key(recipe, name, part) for name in names(recipe) for part in range(plan.parts)}
    expected |= {final_key(part) for part in range(plan.parts)}
    for key in [*run.storage.list("capture/parts"), *run.storage.list(f"{WORK}/by")]:
        if key not in expected:
            run.storage.delete(key)


def _pass(recipe: Recipe, run: Run, plan: Plan, name: str) -> Timed:
    """Have one teacher answer all parts that it has not answered yet; what it wrote for that, and in what time."""
    missing, done = [], 0
    folder = part_key(recipe, name, 0).rpartition("/")[0]
    there = set(run.storage.list(folder))
    for part in range(plan.parts):
        key = part_key(recipe, name, part)
        table = part_there(run, key, plan.made_from) if key in there else None
        if table is None or counts_of(table)["failed"]:
            missing.append(part)
        else:
            done += plan.size(part)
    if not missing:
        return Timed(0.0)
    if done:
        say("capture", f"goes on: {done} of {plan.records} records are there")
    say("capture", "starts the teacher" if name == FIRST_TEACHER else f"starts the teacher {name!r}")
    section = section_of(recipe, name)
    if section.batch and len(missing) > (most := recipe.capture.engines.max * at_once(section)):
        say("capture", f"{len(missing)} batches, {most} at a time: a larger `capture.part_size` makes fewer of them")
    progress = Progress("capture", plan.records, "records", done=done)
    error = ""
    found = []
    for written in _answered(recipe, run, plan, name, missing):
        error = error or written.error
        if not written.error:
            progress.add(plan.size(written.part))
            found.append(written)
    if error:
        raise UserError(error)
    return _together(found) if _is_timed(recipe, name) else Timed(0.0)


def _is_timed(recipe: Recipe, name: str) -> bool:
    """Whether the time says how fast a teacher writes: others' completions are only scored, and a batch of the Batch
    API waits for its turn, and may be an earlier start's."""
    writes = recipe.capture.completions == "teacher" and scored_by(recipe, name) is None
    return writes and not section_of(recipe, name).batch


def _together(parts: Sequence[Written]) -> Timed:
    """From the first question of all parts to the last one written."""
    return Timed(
        max(part.ended for part in parts) - min(part.began for part in parts), sum(part.tokens for part in parts)
    )


def _answered(recipe: Recipe, run: Run, plan: Plan, name: str, parts: Sequence[int]) -> Iterator[Written]:
    """Yield what became of each part, as it is written or not."""
    # What it would log is raised as well.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    ray.data.DataContext.get_current().enable_progress_bars = False
    section = section_of(recipe, name)
    work = ray.data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts))
    with warnings.catch_warnings():
        # Ray 2.60 calls its own options for actors deprecated, and has no others yet.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        answered = work.map_batches(
            CaptureWorker,
            fn_constructor_args=(recipe, run, plan.made_from, name, scored_by(recipe, name)),
            batch_size=1,
            max_task_retries=MAX_DEATHS,
            **_actors(recipe, section, len(parts)),
        )
    try:
        for row in answered.iter_rows():
            yield Written(
                int(row["part"]), str(row["error"]), int(row["tokens"]), float(row["began"]), float(row["ended"])
            )
    except RayActorError as error:
        raise UserError(
            f"the teacher's worker died {MAX_DEATHS + 1} times over one part, of too little memory perhaps: lower"
            " `capture.part_size` or `teacher.engine.max_num_seqs`; Ray's logs hold its last words"
        ) from error


def scored_by(recipe: Recipe, name: str) -> str | None:
    """Whose completions a teacher scores instead of writing its own."""
    mean = recipe.ensemble is not None and recipe.ensemble.combine == "mean"
    return FIRST_TEACHER if mean and name != FIRST_TEACHER else None


def _actors(recipe: Recipe, section: Teacher, parts: int) -> dict[str, Any]:
    """What Ray Data needs to know of the actors: how many, and what each one holds."""
    engines = recipe.capture.engines
    if section.url is None:
        return actor_options(section.engine, engines, parts)
    return {"num_cpus": 1, "compute": pool(engines, parts, calls=at_once(section))}
