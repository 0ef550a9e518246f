"""From test predictions to a `Report`: the one entry that the evaluation calls."""

from collections.abc import Mapping, Sequence

import numpy as np

from stillhouse.calibration import Calibrated
from stillhouse.cost import Tokens, costs
from stillhouse.metrics import (
    Against,
    Estimate,
    Prediction,
    accuracy,
    agreement,
    confusion,
    expected_calibration_error,
    majority,
    proportion,
    risk_coverage,
)
from stillhouse.recipe import Recipe, Task
from stillhouse.report import words
from stillhouse.report.model import (
    Baseline,
    Confusion,
    CurvePoint,
    Disagreement,
    Lineage,
    Models,
    Quality,
    Release,
    Report,
    Spending,
    TaskSummary,
    WindowRelease,
)
from stillhouse.teachers import told

CURVE_POINTS = 200  # a curve of more points is no more readable, only larger
WORST = 20


def build_report(
    predictions: Sequence[Prediction],
    calibrated: Calibrated,
    recipe: Recipe,
    *,
    run: str,
    funnel: Mapping[str, int],
    lineage: Lineage,
    notes: Sequence[str] = (),
) -> Report:
    """The report on the test split.

    `predictions` holds one `Prediction` for each test record, never one that the threshold was chosen on.
    `calibrated` is `stillhouse.calibration.calibrate` of the calibration split, whose score made the predictions'
    confidences. `run` is the run's URI; `funnel` maps each step of curation, in order, to the records left after
    it; `notes` are remarks to print, one sentence each.

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
    quality = _quality(predictions, alone, task, expected_calibration_error(confidence, right))
    spending = _spending(predictions, recipe, fallback_rate.value)
    return Report(
        run=run,
        name=recipe.name,
        verdict=words.verdict(calibration, quality, spending.per_million, fallback_rate),
        released=threshold is not None,
        warnings=[
            *words.warnings(calibration, quality, spending.per_million, alone_error, len(predictions)),
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
        confusion=_confusion(predictions, task, against),
        disagreements=_disagreements(predictions, alone),
        lineage=lineage,
    )


def _alone(
    confidence: np.ndarray, right: np.ndarray, threshold: float | None
) -> tuple[np.ndarray, Estimate, Estimate | None]:
    """Which answers go out alone [n], the share of the others, and the errors among those that do."""
    alone = np.zeros(confidence.size, dtype=bool) if threshold is None else confidence >= threshold
    error = proportion(int((alone & ~right).sum()), int(alone.sum())) if alone.any() else None
    return alone, proportion(int((~alone).sum()), confidence.size), error


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


def _quality(
    predictions: Sequence[Prediction], alone: np.ndarray, task: TaskSummary, calibration_error: float
) -> Quality:
    gold = [p.gold for p in predictions]
    teacher = [p.teacher for p in predictions]
    student = [p.student for p in predictions]
    cascade = [s if own else t for s, t, own in zip(student, teacher, alone, strict=True)]
    # Without gold the teacher's answers stand in: a student that parrots the commonest one agrees that often.
    common = majority(gold) or majority(teacher) if task.kind == "choices" else None
    return Quality(
        teacher=accuracy(teacher, gold),
        student=accuracy(student, gold),
        cascade=accuracy(cascade, gold),
        baseline=Baseline(label=common[0], share=common[1]) if common else None,
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


def _confusion(predictions: Sequence[Prediction], task: TaskSummary, against: Against) -> Confusion | None:
    if task.kind != "choices":
        return None
    reference: Against = "gold" if any(p.gold is not None for p in predictions) else against
    truth = [p.gold if reference == "gold" else p.teacher for p in predictions]
    counts = confusion(truth, [p.student for p in predictions], task.choices)
    return Confusion(reference=reference, labels=task.choices, counts=counts)


def _disagreements(predictions: Sequence[Prediction], alone: np.ndarray) -> list[Disagreement]:
    """The most confident first: those are what a threshold cannot catch."""
    differing = [i for i, p in enumerate(predictions) if p.student is None or p.student != p.teacher]
    differing.sort(key=lambda i: (-predictions[i].confidence, predictions[i].id))
    return [
        Disagreement(
            id=p.id,
            text=p.text,
            gold=p.gold,
            teacher=p.teacher,
            student=p.student,
            confidence=p.confidence,
            alone=bool(alone[i]),
        )
        for i in differing[:WORST]
        for p in (predictions[i],)
    ]
