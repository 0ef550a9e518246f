"""All that is known of a recipe, put together and judged."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from stillhouse.check.contract import spelling
from stillhouse.check.estimate import prices_of
from stillhouse.check.findings import Check, TeacherFound
from stillhouse.check.inputs import Inputs, read_inputs
from stillhouse.check.judge import judge_cost, judge_inputs, judge_keys, judge_teacher
from stillhouse.cost import Payback, Tokens, costs, payback
from stillhouse.cost.payback import COVERAGE
from stillhouse.recipe import Recipe


def check_without_teacher(recipe: Recipe) -> Check:
    """What can be known without asking any teacher. Raises `UserError` for what cannot work."""
    return build(recipe, read_inputs(recipe), ())


def build(recipe: Recipe, inputs: Inputs, teachers: Sequence[TeacherFound]) -> Check:
    """The check of a recipe; `teachers` is empty where none was asked."""
    known = bool(recipe.prices.teacher_input or recipe.prices.teacher_output)
    largest = largest_cost(recipe, inputs) if known and not teachers else None
    cost = sum(found.cost.value for found in teachers) if teachers else largest
    paid = _payback(recipe, inputs, teachers, cost) if known and cost is not None else None
    teacher = recipe.teacher
    return Check(
        recipe=recipe.name,
        records=inputs.records,
        labelled=inputs.labelled,
        tuned_on=None if teacher.tune is None else teacher.tune.records,
        duplicates=inputs.duplicates,
        tokenizer=inputs.tokenizer_model,
        own_tokens=inputs.tokenizer_model == (teacher.model if teacher.url is None else teacher.tokenizer),
        prompts=inputs.prompts,
        currency=recipe.prices.currency,
        largest_cost=largest,
        training=recipe.prices.training,
        teachers=tuple(teachers),
        payback=paid,
        warnings=(
            *judge_inputs(recipe, inputs),
            *(() if teachers else judge_keys(recipe)),
            *chain.from_iterable(judge_teacher(recipe, found) for found in teachers),
            *judge_cost(recipe, cost, paid),
        ),
    )


def largest_cost(recipe: Recipe, inputs: Inputs) -> float:
    """The whole capture's cost, if every completion is as long as it may be, in the tokens that are counted."""
    cost = 0.0
    for name, records in inputs.by_teacher.items():
        lengths = inputs.of_teacher(name)
        reading, writing = prices_of(recipe, name)
        mean = sum(lengths) / len(lengths) if lengths else 0.0
        cost += records * (mean * reading + recipe.capture.n * recipe.task.max_tokens * writing)
    return cost


def _payback(recipe: Recipe, inputs: Inputs, teachers: Sequence[TeacherFound], cost: float) -> Payback | None:
    """From the first teacher's completions; from the choices' own lengths, where there are such and none was asked."""
    if teachers:
        asked = Tokens(prompt=teachers[0].prompt, completion=teachers[0].completion.value)
        answers = Tokens(prompt=inputs.prompts.mean, completion=teachers[0].stored)
    elif recipe.task.kind == "choices":
        lengths = [len(spelling(choice, inputs.tokenizer)) + 1 for choice in recipe.task.choices]
        asked = answers = Tokens(prompt=inputs.prompts.mean, completion=sum(lengths) / len(lengths))
    else:
        return None
    million = costs(teacher=asked, student=answers, fallback_rate=0.0, prices=recipe.prices)
    return payback(
        teacher=million.teacher,
        student=million.student,
        currency=million.currency,
        one_off=cost + (recipe.prices.training or 0.0),
        monthly_requests=recipe.prices.monthly_requests,
        coverage=COVERAGE,
    )
