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
from stillhouse.calibration import calibrate
from stillhouse.confidence import Evidence
from stillhouse.confidence.alternatives import alternatives_asked
from stillhouse.embeddings import embed
from stillhouse.endpoint.student import remote_student
from stillhouse.errors import UserError
from stillhouse.hardware import hardware
from stillhouse.held_out import missing_classes, require_apart
from stillhouse.judge.ask import judge
from stillhouse.judge.judgement import Judgement
from stillhouse.metrics import Prediction
from stillhouse.policy import Policy
from stillhouse.recipe import Capture, Engine, Recipe, Task
from stillhouse.report import Lineage, build_report, render_html
from stillhouse.report.baselines import TrainSplit
from stillhouse.report.drift import drift_baseline
from stillhouse.report.speed import ONE_BY_ONE, Speed, beside_teacher, speed
from stillhouse.run import Manifest, Run, made_by
from stillhouse.signal.alignment import template_hash, tokenizer_hash
from stillhouse.signal.schema import Completion, read_table, write_table
from stillhouse.task import answer, decoding, render, task_hash, told
from stillhouse.timed import Timed, last_start
from stillhouse.tuning import text_of

BATCH = 100
"""Records a call to the engine: enough to fill it, few enough to show progress."""


def evaluate(recipe: Recipe, run: Run) -> None:
    """Make RUN/evaluation: predictions.parquet, policy.json, drift_baseline.parquet, report.json and report.html.

    Raises:
        UserError: the dataset or the student has not been made, or records that are held out were trained on.
    """
    began = time.monotonic()
    dataset = run.finished("dataset", "curate")
    student = run.finished("student", "train")
    inputs = lineage.inputs("evaluation", recipe, run)
    say("evaluate", f"reads {run.uri}/dataset and {run.uri}/student, writes {run.uri}/evaluation")
    rows = {split: _rows(run, split) for split in ("calibration", "test")}
    train = _train(run)
    held_out = {split: {row["id"]: _text(row) for row in found} for split, found in rows.items()}
    require_apart(train.texts, held_out)
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
        answered, measured = _predictions(recipe, run, rows, alternatives)
    else:
        answered, notes, measured = remote_predictions(recipe, remote, rows)
    judgement = _judgement(recipe, answered["test"], rows["test"])
    try:
        calibrated = calibrate(answered["calibration"], recipe)
        predictions = {split: calibrated.rescored(found) for split, found in answered.items()}
        test, labels = predictions["test"], [choice.strip() for choice in recipe.task.choices]
        drift, drift_table = drift_baseline(
            test, calibrated.calibration.threshold, labels=labels, embed=embed, seed=recipe.seed
        )
        given = {split: {p.teacher for p in found} | {p.gold for p in found} for split, found in predictions.items()}
        report = build_report(
            test,
            calibrated,
            recipe,
            run=run.uri,
            funnel=_funnel(dataset.counts),
            lineage=_lineage(recipe, run, inputs),
            notes=[*notes, *_remarks(recipe)],
            warnings=missing_classes(labels, given),
            train=train,
            embed=embed,
            speed=beside_teacher(measured, _captured(run, dataset)),
            drift=drift,
            judgement=judgement,
        )
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
    about = {"holds": "drift baseline", "embedding": "all-MiniLM-L6-v2"}
    run.storage.write("evaluation/drift_baseline.parquet", write_table(drift_table, about))
    run.storage.write("evaluation/report.json", report.to_json())
    run.storage.write("evaluation/report.html", render_html(report).encode())
    counts = {split: len(found) for split, found in predictions.items()}
    run.commit("evaluation", recipe=recipe, inputs=inputs, counts=counts, began=began)
    for alarm in report.alarms:
        say("evaluate", f"ALARM: {alarm}")
    for warning in report.warnings:
        say("evaluate", f"warning: {warning}")
    say("evaluate", report.verdict)
    say("evaluate", report.summary)
    say("evaluate", f"report: {run.uri}/evaluation/report.html")


class StudentWorker:
    """The actor that holds the student's engine, which tells the likeliest `alternatives` tokens at each position."""

    def __init__(self, run: Run, engine: Engine, task: Task, alternatives: int) -> None:
        capture = Capture(mode="topk", top_k=alternatives) if alternatives else Capture(mode="text")
        # Fetched here, since every node has a disk of its own.
        self.engine = BatchEngine(str(run.fetch("student")), engine, task, capture)
        self._device = engine.device
        self._asked: list[Timed] = []
        self._records = 0

    def complete(self, prompts: list[list[int]]) -> list[Completion]:
        """One completion a prompt."""
        began = time.monotonic()
        found = [completions[0] for completions in self.engine.complete(prompts)]
        self._asked.append(Timed(time.monotonic() - began, sum(len(completion.token_ids) for completion in found)))
        self._records += len(prompts)
        return found

    def speed(self, prompts: list[list[int]]) -> Speed | None:
        """How fast the engine was up to now, and how fast it answers these prompts one at a time."""
        batch = Timed(sum(one.seconds for one in self._asked), sum(one.tokens for one in self._asked))
        records = self._records
        single = []
        for prompt in prompts:
            self.complete([prompt])
            single.append(self._asked.pop())
        return speed(hardware(self._device), single, at_once=1, batch=batch, records=records)


def _predictions(
    recipe: Recipe, run: Run, rows: dict[str, list[dict[str, Any]]], alternatives: int
) -> tuple[dict[str, list[Prediction]], Speed | None]:
    """The student's answers beside the teacher's, for every split in `rows`, none with a confidence yet; and how fast
    they came."""
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
        measured: Speed | None = ray.get(
            worker.speed.remote([row["prompt_token_ids"] for row in rows["test"][:ONE_BY_ONE]])
        )
    finally:
        ray.kill(worker)
    return predictions, measured


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
        text=_text(row),
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


def _captured(run: Run, dataset: Manifest) -> Timed | None:
    """What the capture's last start wrote, and in what time; None where the dataset is not that capture's."""
    capture = run.manifest("capture")
    if capture is None or capture.content_hash() != dataset.inputs.get("capture"):
        return None
    return last_start(capture.counts)


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


def _train(run: Run) -> TrainSplit:
    key = "dataset/train.parquet"
    rows = read_table(run.storage.read(key), name=key).select(["fields", "gold", "answer"]).to_pylist()
    return TrainSplit([_text(row) for row in rows], [row["answer"] for row in rows], [row["gold"] for row in rows])


def _text(row: dict[str, Any]) -> str:
    return text_of(json.loads(row["fields"]).values())


def _judgement(recipe: Recipe, test: Sequence[Prediction], rows: list[dict[str, Any]]) -> Judgement | None:
    """What the judge prefers, if the recipe names one."""
    section = recipe.evaluation.judge
    if section is None:
        return None
    say("evaluate", f"asks the judge {section.model} at {section.url}")
    questions = {row["id"]: told(render(recipe.task, json.loads(row["fields"]))) for row in rows}
    return judge(section, test, questions, seed=recipe.seed)


def _funnel(counts: dict[str, int | float]) -> dict[str, int]:
    """Records left after each step of curation, in order."""
    left = int(counts["captured"])
    funnel = {"captured": left}
    for name, dropped in counts.items():
        if name.startswith("dropped_"):
            left -= int(dropped)
            funnel[f"without {name.removeprefix('dropped_')}"] = left
    return funnel | {split: int(counts[split]) for split in ("train", "validation", "calibration", "test")}


def _remarks(recipe: Recipe) -> list[str]:
    if not models.is_dequantised(recipe.teacher.model):
        return []
    return ["The teacher's weights are dequantised from GGUF, so it is a little less exact than the original."]


def _lineage(recipe: Recipe, run: Run, inputs: dict[str, str]) -> Lineage:
    return Lineage(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seed=recipe.seed,
        hashes=inputs,
        versions=made_by(recipe.seed),
        commands=[f"stillhouse run {run.uri}/recipe.yaml --run {run.uri}", f"stillhouse serve {run.uri}"],
    )


if __name__ == "__main__":
    main("evaluate", evaluate)
