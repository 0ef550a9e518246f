"""Evaluate: teacher, student and cascade on the same held-out records, the threshold, and the report.

`python -m ray_jobs.evaluate --recipe PATH --run URI`. The teacher's answers are those of the capture, so that it is not
asked twice; the student answers the calibration and the test split as it will be served: through vLLM, or at its
endpoint.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow
import ray

from ray_jobs.engine import BatchEngine
from ray_jobs.entry import main
from ray_jobs.placement import remote_options
from ray_jobs.progress import Progress, say
from ray_jobs.remote_answers import remote_predictions
from stillhouse import lineage, models
from stillhouse.calibration import Calibrated, calibrate
from stillhouse.confidence import Evidence
from stillhouse.confidence.alternatives import alternatives_asked
from stillhouse.endpoint.student import remote_student
from stillhouse.errors import UserError
from stillhouse.metrics import Prediction
from stillhouse.policy import Policy
from stillhouse.recipe import Capture, Engine, Recipe, Task
from stillhouse.report import Lineage, Report, build_report, render_html
from stillhouse.run import Run, made_by
from stillhouse.signal.alignment import template_hash, tokenizer_hash
from stillhouse.signal.schema import Completion, read_table, write_table
from stillhouse.task import answer, decoding, task_hash

BATCH = 100
"""Records a call to the engine: enough to fill it, few enough to show progress."""


def evaluate(recipe: Recipe, run: Run) -> None:
    """Make RUN/evaluation: predictions.parquet, policy.json, report.json and report.html.

    Raises:
        UserError: the dataset or the student has not been made.
    """
    began = time.monotonic()
    dataset = run.finished("dataset", "curate")
    student = run.finished("student", "train")
    inputs = lineage.inputs("evaluation", recipe, run)
    say("evaluate", f"reads {run.uri}/dataset and {run.uri}/student, writes {run.uri}/evaluation")
    rows = {split: _rows(run, split) for split in ("calibration", "test")}
    remote = remote_student(recipe, run)
    # An endpoint's tokens are not known: those of the dataset are the vLLM teacher's beside it.
    tokenizer = models.load_tokenizer(str(run.fetch("student")) if remote is None else models.token_source(recipe))
    alternatives = alternatives_asked(recipe.task, tokenizer) if remote is None else 0
    if recipe.evaluation.needs_alternatives and not alternatives:
        raise UserError(
            f"`evaluation.score: {recipe.evaluation.score}` tells the choices' tokens apart by their spelling, and two"
            " of them are spelled alike: set `evaluation.score: auto`"
        )
    notes: list[str] = []
    if remote is None:
        answered = _predictions(recipe, run, rows, alternatives)
    else:
        answered, notes = remote_predictions(recipe, remote, rows)
    try:
        calibrated = calibrate(answered["calibration"], recipe)
        predictions = {split: calibrated.rescored(found) for split, found in answered.items()}
        report = _report(recipe, run, predictions["test"], calibrated, dataset.counts, inputs, notes)
    except ValueError as error:
        raise UserError(str(error)) from error
    policy = Policy.from_calibration(
        calibrated,
        alternatives=alternatives,
        against=recipe.evaluation.against,
        student_hash=student.content_hash(),
        tokenizer_hash=tokenizer_hash(tokenizer),
        template_hash=template_hash(tokenizer),
        task_hash=task_hash(recipe.task),
        sampling=decoding(recipe.task, tokenizer),
        versions=made_by(recipe.seed),
        student_model=remote.model if remote is not None else None,
    )
    run.clear("evaluation")
    run.storage.write("evaluation/predictions.parquet", _table(predictions))
    run.storage.write("evaluation/policy.json", policy.save())
    run.storage.write("evaluation/report.json", report.model_dump_json(indent=2).encode())
    run.storage.write("evaluation/report.html", render_html(report).encode())
    counts = {split: len(found) for split, found in predictions.items()}
    run.commit("evaluation", recipe=recipe, inputs=inputs, counts=counts, began=began)
    for warning in report.warnings:
        say("evaluate", f"warning: {warning}")
    say("evaluate", report.verdict)
    say("evaluate", f"report: {run.uri}/evaluation/report.html")


class StudentWorker:
    """The actor that holds the student's engine, which tells the likeliest `alternatives` tokens at each position."""

    def __init__(self, run: Run, engine: Engine, task: Task, alternatives: int) -> None:
        told = Capture(mode="topk", top_k=alternatives) if alternatives else Capture(mode="text")
        # Fetched here, since every node has a disk of its own.
        self.engine = BatchEngine(str(run.fetch("student")), engine, task, told)

    def complete(self, prompts: list[list[int]]) -> list[Completion]:
        """One completion a prompt."""
        return [completions[0] for completions in self.engine.complete(prompts)]


def _predictions(
    recipe: Recipe, run: Run, rows: dict[str, list[dict[str, Any]]], alternatives: int
) -> dict[str, list[Prediction]]:
    """The student's answers beside the teacher's, for every split in `rows`; none has a confidence yet."""
    say("evaluate", "starts the student")
    engine = recipe.student.engine
    worker = ray.remote(StudentWorker).options(**remote_options(engine)).remote(run, engine, recipe.task, alternatives)
    progress = Progress("evaluate", sum(map(len, rows.values())), "records")
    predictions: dict[str, list[Prediction]] = {}
    try:
        for split, records in rows.items():
            predictions[split] = []
            for start in range(0, len(records), BATCH):
                batch = records[start : start + BATCH]
                prompts = [row["prompt_token_ids"] for row in batch]
                completions = ray.get(worker.complete.remote(prompts))
                predictions[split] += [
                    _prediction(recipe.task, row, completion)
                    for row, completion in zip(batch, completions, strict=True)
                ]
                progress.add(len(batch))
    finally:
        ray.kill(worker)
    return predictions


def evidence_of(completion: Completion) -> Evidence:
    """What a confidence is made from. Raises ValueError where the engine told no logprobs, or broken ones."""
    signal = completion.signal
    top = None if signal is None else [signal.at(token)[1].tolist() for token in range(len(signal))]
    return Evidence.of(completion.token_logprobs or [], top)


def _prediction(task: Task, row: dict[str, Any], completion: Completion) -> Prediction:
    try:
        evidence = evidence_of(completion)
    except ValueError as error:
        raise UserError(f"the student's answer to record {row['id']} cannot be judged: {error}") from error
    return Prediction(
        id=row["id"],
        text="\n".join(json.loads(row["fields"]).values()),
        gold=row["gold"],
        teacher=row["answer"],
        student=answer(task, completion.text),
        confidence=0.0,
        teacher_prompt_tokens=len(row["prompt_token_ids"]),
        teacher_completion_tokens=len(row["completion_token_ids"]),
        student_prompt_tokens=len(completion.prompt_token_ids),
        student_completion_tokens=len(completion.token_ids),
        evidence=evidence,
    )


def _rows(run: Run, split: str) -> list[dict[str, Any]]:
    key = f"dataset/{split}.parquet"
    columns = ["id", "fields", "gold", "answer", "prompt_token_ids", "completion_token_ids"]
    rows: list[dict[str, Any]] = read_table(run.storage.read(key), name=key).select(columns).to_pylist()
    return rows


def _table(predictions: dict[str, list[Prediction]]) -> bytes:
    columns = [name for name in Prediction.__dataclass_fields__ if name != "evidence"]
    rows = [
        {
            "split": split,
            **{name: getattr(prediction, name) for name in columns},
            "token_logprobs": prediction.evidence and prediction.evidence.token_logprobs,
            "alternatives": prediction.evidence and prediction.evidence.alternatives,
        }
        for split, found in predictions.items()
        for prediction in found
    ]
    return write_table(pyarrow.Table.from_pylist(rows), {"holds": "predictions"})


def _report(
    recipe: Recipe,
    run: Run,
    test: Sequence[Prediction],
    calibrated: Calibrated,
    counts: dict[str, int | float],
    inputs: dict[str, str],
    notes: Sequence[str],
) -> Report:
    left = int(counts["captured"])
    funnel = {"captured": left}
    for name, dropped in counts.items():
        if name.startswith("dropped_"):
            left -= int(dropped)
            funnel[f"without {name.removeprefix('dropped_')}"] = left
    funnel |= {split: int(counts[split]) for split in ("train", "validation", "calibration", "test")}
    notes = list(notes)
    if models.is_dequantised(recipe.teacher.model):
        notes.append("The teacher's weights are dequantised from GGUF, so it is a little less exact than the original.")
    return build_report(
        test,
        calibrated,
        recipe,
        run=run.uri,
        funnel=funnel,
        notes=notes,
        lineage=Lineage(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            seed=recipe.seed,
            hashes=inputs,
            versions=made_by(recipe.seed),
            commands=[f"stillhouse run {run.uri}/recipe.yaml --run {run.uri}", f"stillhouse serve {run.uri}"],
        ),
    )


if __name__ == "__main__":
    main("evaluate", evaluate)
