"""What is wrong between sections that are each right by themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stillhouse.recipe.capture import Capture
from stillhouse.recipe.release import Evaluation
from stillhouse.recipe.student import Student
from stillhouse.recipe.task import Task
from stillhouse.recipe.teacher import Teacher


def section_problems(sections: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong between the recipe's sections; one that is missing or None is compared with nothing."""
    task, data, teacher, capture, student, evaluation = (
        sections.get(name) for name in ("task", "data", "teacher", "capture", "student", "evaluation")
    )
    if data is not None and data.labels and data.label is None:
        yield "`data.labels` maps the values of `data.label`, which is not given"
    if data is not None and task is not None and task.kind == "choices":
        answers = {choice.strip() for choice in task.choices}
        for value, answer in data.labels.items():
            if answer.strip() not in answers:
                yield f"`data.labels.{value}` is {answer!r}, which is not one of `task.choices`"
    if data is not None and evaluation is not None and evaluation.against == "gold" and data.label is None:
        yield "`evaluation.against: gold` needs `data.label`"
    if evaluation is not None:
        yield from _score_problems(evaluation, task, student)
    if data is not None and capture is not None:
        if capture.completions == "gold" and data.label is None:
            yield "`capture.completions: gold` needs `data.label`"
        if (capture.completions == "column") != (data.completion is not None):
            yield "`data.completion` goes with `capture.completions: column`, which needs it"
    if task is not None and capture is not None and capture.n > 1 and not task.temperature:
        yield "`capture.n` above 1 needs a `task.sampling.temperature` above 0: greedy completions are all the same"
    if capture is not None and student is not None:
        yield from _signal_problems(capture, student)
    if data is not None and data.label is None and student is not None and student.ce_on == "gold":
        yield "`student.ce_on: gold` needs `data.label`"
    if data is not None and data.label is None and teacher is not None and teacher.tune is not None:
        yield "`teacher.tune` needs `data.label`"
    if teacher is not None and teacher.url is not None:
        yield from _endpoint_problems(teacher, sections)
    yield from _ensemble_problems(sections)
    yield from _filter_problems(sections)
    yield from _judge_problems(sections)


def _score_problems(evaluation: Evaluation, task: Task | None, student: Student | None) -> Iterator[str]:
    named = f"`evaluation.score: {evaluation.score}`"
    if evaluation.needs_alternatives and task is not None and task.kind != "choices":
        yield f"{named} is made from the probabilities of the choices, and goes with `task.kind: choices`"
    if evaluation.needs_alternatives and student is not None and student.openai is not None:
        yield f"{named} needs logprobs that are normalised among the choices, which `student.openai` does not give"
    if evaluation.windows and task is not None:
        if task.kind != "text":
            yield "`evaluation.windows` goes with `task.kind: text`: other answers are held until they are whole"
        elif evaluation.windows[-1] >= task.max_tokens:
            yield f"`evaluation.windows` must be shorter than `task.max_tokens`, which is {task.max_tokens}"


def _signal_problems(capture: Capture, student: Student) -> Iterator[str]:
    if student.kd_weight == 0 or student.openai is not None:
        return
    divergence = student.divergence
    if capture.mode == "text":
        yield (
            "`capture.mode: text` brings no distributions to distil: set `student.kd_weight: 0` to train on the"
            " teacher's words alone"
        )
    if capture.mode == "sampled":
        if student.temperature != 1:
            yield "`capture.mode: sampled` is unbiased at a temperature of 1 alone: set `student.temperature: 1`"
        if divergence.kind != "forward_kl":
            yield f"`capture.mode: sampled` estimates `forward_kl` alone without bias, not `{divergence.kind}`"
        if divergence.tail not in (None, "sampled"):
            yield f"`capture.mode: sampled` leaves no tail out that `student.divergence.tail: {divergence.tail}` is for"
    if capture.mode == "topk":
        if divergence.tail == "sampled":
            yield "`student.divergence.tail: sampled` needs `capture.mode: sampled`"
        if divergence.tail is None and divergence.kind in ("reverse_kl", "adaptive_kl"):
            yield (
                f"`{divergence.kind}` needs `student.divergence.tail: bucket`: it is infinite where the student gives"
                " probability to what the teacher gives none, as `renormalise` says of all tokens but the stored"
            )


def _endpoint_problems(teacher: Teacher, sections: Mapping[str, Any]) -> Iterator[str]:
    capture, student, task = (sections.get(name) for name in ("capture", "student", "task"))
    if student is not None and student.openai is not None:
        if teacher.tokenizer is None:
            yield (
                "`teacher.url` with `student.openai` needs `teacher.tokenizer`: nothing else tells how many tokens a"
                " text has"
            )
    elif student is not None and student.init.kind in ("teacher_layers", "fresh"):
        yield (
            f"`student.init.kind: {student.init.kind}` needs the teacher's weights, which `teacher.url` does not give"
        )
    if capture is None:
        return
    if capture.completions != "teacher":
        yield "`teacher.url` writes completions, and cannot score others': give weights, or `completions: teacher`"
    if capture.mode == "sampled":
        yield "`capture.mode: sampled` draws inside the engine, which `teacher.url` hides: use `topk` or `text`"
    if capture.mode == "topk":
        if teacher.tokenizer is None:
            yield "`capture.mode: topk` through `teacher.url` needs `teacher.tokenizer`; without one use `mode: text`"
        if teacher.api == "openai" and capture.top_k > 20:
            yield f"OpenAI's API gives 20 logprobs at most, and `capture.top_k` is {capture.top_k}"
        if teacher.api == "openai" and task is not None and task.kind == "choices":
            yield (
                "`capture.mode: topk` for `choices` needs logprobs that are normalised among the choices, as"
                " `teacher.api: vllm` gives them: use `mode: text`"
            )


def _judge_problems(sections: Mapping[str, Any]) -> Iterator[str]:
    evaluation, teacher, ensemble = (sections.get(name) for name in ("evaluation", "teacher", "ensemble"))
    judge = evaluation.judge if evaluation is not None else None
    if judge is None:
        return
    for one in [*([teacher] if teacher is not None else []), *(ensemble.members if ensemble is not None else ())]:
        if one.url is not None and (one.url.rstrip("/"), one.model) == (judge.url.rstrip("/"), judge.model):
            yield f"`evaluation.judge` is the teacher {one.model} itself, which prefers its own answers: name another"


def _ensemble_problems(sections: Mapping[str, Any]) -> Iterator[str]:
    ensemble, capture, task = (sections.get(name) for name in ("ensemble", "capture", "task"))
    if ensemble is None:
        return
    if ensemble.combine == "majority" and task is not None and task.kind == "text":
        yield "`ensemble.combine: majority` compares answers, and no two texts are alike: use `each`, `route` or `mean`"
    if ensemble.combine == "mean" and capture is not None and capture.mode != "topk":
        yield "`ensemble.combine: mean` needs `capture.mode: topk`"
    if ensemble.combine != "mean" and capture is not None and capture.completions != "teacher":
        yield f"`ensemble.combine: {ensemble.combine}` is about the teachers' own completions"
    if ensemble.combine in ("majority", "mean") and capture is not None and capture.n > 1:
        yield f"`ensemble.combine: {ensemble.combine}` makes one completion of the teachers': leave `capture.n` at 1"


def _filter_problems(sections: Mapping[str, Any]) -> Iterator[str]:
    curation, capture, task, teacher = (sections.get(name) for name in ("curation", "capture", "task", "teacher"))
    if curation is None:
        return
    filters, ensemble = curation.filters, sections.get("ensemble")
    several = ensemble is not None and ensemble.combine in ("majority", "each")
    if filters.consistency is not None and capture is not None and capture.n == 1 and not several:
        yield (
            "`curation.filters.consistency` compares several completions of a record: set `capture.n` above 1, or an"
            " `ensemble` that combines by `majority` or `each`"
        )
    told = teacher is None or teacher.url is None or capture is None or capture.mode != "text"
    if filters.uncertainty is not None and not told:
        yield (
            "`curation.filters.uncertainty` needs the teacher's logprobs, and `capture.mode: text` through"
            " `teacher.url` asks for none"
        )
    if task is not None and task.kind == "choices":
        for name in ("language", "profanity", "pii"):
            section = getattr(filters, name)
            if section is not None and section.look_in == "completion":
                yield (
                    f"`curation.filters.{name}` looks at completions, which are the choices: set its `look_in: prompt`"
                )
