"""From test predictions to a `Report`: the one entry that the evaluation calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from stillhouse.calibration import Calibrated
from stillhouse.confidence import SEQUENCE_PROBABILITY
from stillhouse.cost import Tokens, costs
from stillhouse.cost.curve import cost_curve
from stillhouse.judge.judgement import Judgement
from stillhouse.metrics import (
    Against,
    Estimate,
    Prediction,
    accuracy,
    agreement,
    confusion,
    expected_calibration_error,
    proportion,
    risk_coverage,
)
from stillhouse.metrics.reliability import reliability
from stillhouse.recipe import Recipe, Task
from stillhouse.report import sentences, words
from stillhouse.report.baselines import TrainSplit, baseline_answers
from stillhouse.report.disagreements import worst
from stillhouse.report.drift import DriftBaseline
from stillhouse.report.model import (
    Confusion,
    CurvePoint,
    Lineage,
    Models,
    Quality,
    Release,
    Reliability,
    Report,
    Spending,
    TaskSummary,
    WindowRelease,
)
from stillhouse.report.side_by_side import Embed, cosine_of, side_by_side
from stillhouse.report.speed import Speed
from stillhouse.teachers import told

CURVE_POINTS = 200  # a curve of more points is no more readable, only larger


def build_report(
    predictions: Sequence[Prediction],
    calibrated: Calibrated,
    recipe: Recipe,
    *,
    run: str,
    funnel: Mapping[str, int],
    lineage: Lineage,
    notes: Sequence[str] = (),
    warnings: Sequence[str] = (),
    train: TrainSplit | None = None,
    embed: Embed | None = None,
    speed: Speed | None = None,
    drift: DriftBaseline | None = None,
    judgement: Judgement | None = None,
) -> Report:
    """The report on the test split.

    `predictions` holds one `Prediction` for each test record, never one that the threshold was chosen on.
    `calibrated` is `stillhouse.calibration.calibrate` of the calibration split, whose score made the predictions'
    confidences. `run` is the run's URI; `funnel` maps each step of curation, in order, to the records left after
    it; `notes` are remarks to print and `warnings` what was found before, one sentence each. `train` is what
    baselines learn from; without it there are none. `embed` makes embeddings of texts; without it their
    similarity is not measured.

    The cascade's answer is the student's where its confidence reaches the threshold, else the teacher's.

    Raises ValueError when there are no predictions, when a confidence is NaN or outside [0, 1], when an
    answer of a `choices` task is not one of the choices in graded form (stripped), and when the recipe
    evaluates against gold and a record has none.
    """
    if not predictions:
        raise ValueError("There are no test records to report on.")
    task = _summary(recipe.task)
    _check_answers(predictions, task)
    against = recipe.evaluation.against
    calibration = calibrated.calibration
    threshold = calibration.threshold
    confidence = np.array([p.confidence for p in predictions], dtype=np.float64)
    right = np.array([p.right(against) for p in predictions], dtype=bool)
    curve = risk_coverage(confidence, right)  # checks the confidences, before any of them decides

    alone, fallback_rate, alone_error = _alone(confidence, right, threshold)
    cascade = [p.student if own else p.teacher for p, own in zip(predictions, alone, strict=True)]
    quality = _quality(predictions, cascade, expected_calibration_error(confidence, right))
    spending = _spending(predictions, recipe, fallback_rate.value)
    cosine = None
    if task.kind == "text" and embed is not None:
        cosine = cosine_of(embed, [[answer for p in predictions for answer in (p.gold, p.teacher, p.student)]])
    found = side_by_side(
        predictions,
        cascade,
        kind=task.kind,
        labels=task.choices,
        baselines=baseline_answers(train, [p.text for p in predictions]) if train and task.kind == "choices" else {},
        margin=recipe.evaluation.margin,
        cosine=cosine,
        seed=recipe.seed,
    )
    return Report(
        run=run,
        name=recipe.name,
        verdict=sentences.verdict(found, released=threshold is not None),
        summary=words.summary(calibration, found, spending.per_million, fallback_rate),
        released=threshold is not None,
        alarms=sentences.alarms(found),
        warnings=[
            *sentences.warnings(found),
            *warnings,
            *words.warnings(calibration, spending.per_million, alone_error, len(predictions)),
            *calibrated.warnings,
            *(warning for window in calibrated.windows.values() for warning in window.warnings),
        ],
        notes=list(notes),
        task=task,
        models=Models(teacher=told(recipe.teacher), student=_student(recipe)),
        funnel=dict(funnel),
        test_n=len(predictions),
        gold_n=sum(p.gold is not None for p in predictions),
        quality=quality,
        side_by_side=found,
        release=Release(
            against=against,
            selection=calibrated.selection,
            calibration_error_before=calibrated.error_before,
            calibration_error_after=calibrated.error_after,
            calibration=calibration,
            promise=words.promise(calibration, against),
            fallback_rate=fallback_rate,
            alone_error=alone_error,
            windows=[_window(tokens, window, predictions, right) for tokens, window in calibrated.windows.items()],
        ),
        spending=spending,
        curve=_curve(curve.threshold, curve.accepted, curve.wrong, len(predictions)),
        reliability=_reliabilities(predictions, calibrated, confidence, right),
        cost_curve=cost_curve(
            predictions,
            against="gold" if all(p.gold is not None for p in predictions) else against,
            threshold=threshold,
            prices=recipe.prices,
        )
        if spending.per_million.teacher > 0
        else None,
        confusion=_confusion(predictions, task, found.reference),
        speed=speed,
        drift=drift,
        judgement=judgement,
        disagreements=worst(predictions, alone, cosine=cosine),
        lineage=lineage,
    )


def _alone(
    confidence: np.ndarray, right: np.ndarray, threshold: float | None
) -> tuple[np.ndarray, Estimate, Estimate | None]:
    """Which answers go out alone [n], the share of the others, and the errors among those that do."""
    alone = np.zeros(confidence.size, dtype=bool) if threshold is None else confidence >= threshold
    error = proportion(int((alone & ~right).sum()), int(alone.sum())) if alone.any() else None
    return alone, proportion(int((~alone).sum()), confidence.size), error


def _reliabilities(
    predictions: Sequence[Prediction], calibrated: Calibrated, confidence: np.ndarray, right: np.ndarray
) -> list[Reliability]:
    """Of the confidence, and beside a score that was picked or fitted that of the plain sequence probability."""
    found = [Reliability(score="confidence", bins=reliability(confidence, right))]
    if calibrated.selection.score != SEQUENCE_PROBABILITY:
        told = [p.evidence if p.student is not None else None for p in predictions]
        plain = np.array([0.0 if one is None else SEQUENCE_PROBABILITY(one) for one in told])
        found.append(Reliability(score="sequence probability", bins=reliability(plain, right)))
    return found


def _window(tokens: int, calibrated: Calibrated, predictions: Sequence[Prediction], right: np.ndarray) -> WindowRelease:
    confidence = np.array([calibrated.confidence(prediction) for prediction in predictions])
    _, fallback_rate, error = _alone(confidence, right, calibrated.calibration.threshold)
    return WindowRelease(
        tokens=tokens,
        selection=calibrated.selection,
        calibration=calibrated.calibration,
        fallback_rate=fallback_rate,
        alone_error=error,
    )


def _summary(task: Task) -> TaskSummary:
    template = task.prompt
    if template is None:
        template = "\n\n".join(f"{message.role}: {message.content}" for message in task.messages or ())
    return TaskSummary(kind=task.kind, template=template, choices=[choice.strip() for choice in task.choices])


def _student(recipe: Recipe) -> str:
    if recipe.student.openai is not None:
        return f"{recipe.student.openai.model}, fine-tuned through its API"
    init = recipe.student.init
    if init.kind == "pretrained":
        return f"{init.model}, distilled"
    return f"{init.layers} of the teacher's layers, distilled"


def _check_answers(predictions: Sequence[Prediction], task: TaskSummary) -> None:
    """A choice that was not stripped would compare unequal to itself, and every number would be wrong."""
    if task.kind != "choices":
        return
    for prediction in predictions:
        for who in ("gold", "teacher", "student"):
            answer = getattr(prediction, who)
            if answer is not None and answer not in task.choices:
                raise ValueError(
                    f"Record {prediction.id}: the {who} answer {answer!r} is none of the choices "
                    f"{task.choices} in graded form."
                )


def _quality(predictions: Sequence[Prediction], cascade: Sequence[str | None], calibration_error: float) -> Quality:
    gold = [p.gold for p in predictions]
    teacher = [p.teacher for p in predictions]
    student = [p.student for p in predictions]
    return Quality(
        teacher=accuracy(teacher, gold),
        student=accuracy(student, gold),
        cascade=accuracy(cascade, gold),
        agreement=agreement(student, teacher),
        cascade_agreement=agreement(cascade, teacher),
        calibration_error=calibration_error,
    )


def _spending(predictions: Sequence[Prediction], recipe: Recipe, fallback_rate: float) -> Spending:
    n = len(predictions)
    teacher = Tokens(
        prompt=sum(p.teacher_prompt_tokens for p in predictions) / n,
        completion=sum(p.teacher_completion_tokens for p in predictions) / n,
    )
    student = Tokens(
        prompt=sum(p.student_prompt_tokens for p in predictions) / n,
        completion=sum(p.student_completion_tokens for p in predictions) / n,
    )
    return Spending(
        teacher_tokens=teacher,
        student_tokens=student,
        per_million=costs(teacher=teacher, student=student, fallback_rate=fallback_rate, prices=recipe.prices),
    )


def _curve(threshold: np.ndarray, accepted: np.ndarray, wrong: np.ndarray, n: int) -> list[CurvePoint]:
    """At most CURVE_POINTS points, evenly spread in coverage, the last one kept."""
    wanted = np.linspace(accepted[0], accepted[-1], num=min(CURVE_POINTS, accepted.size))
    index = np.unique(np.searchsorted(accepted, wanted, side="left"))
    return [
        CurvePoint(
            threshold=float(threshold[i]),
            coverage=float(accepted[i] / n),
            risk=_share(wrong[i], accepted[i]),
        )
        for i in index
    ]


def _share(part: np.integer, whole: np.integer) -> Estimate:
    return proportion(int(part), int(whole))


def _confusion(predictions: Sequence[Prediction], task: TaskSummary, reference: Against) -> Confusion | None:
    if task.kind != "choices":
        return None
    truth = [p.gold if reference == "gold" else p.teacher for p in predictions]
    counts = confusion(truth, [p.student for p in predictions], task.choices)
    return Confusion(reference=reference, labels=task.choices, counts=counts)
