"""What is worth knowing before a capture, each thing by a name that stays.

The thresholds are rules of thumb: guides to distillation and fine-tuning give ranges, and none a number that holds for
every task. Where there is more behind one, its comment says what.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from stillhouse import models
from stillhouse.calibration import records_to_fit, smallest_sample
from stillhouse.check.contract import spelling_findings, width_finding
from stillhouse.check.findings import Finding, TeacherFound
from stillhouse.check.inputs import Inputs
from stillhouse.cost import Payback
from stillhouse.cost.payback import COVERAGE, DAYS_A_MONTH
from stillhouse.recipe import Recipe
from stillhouse.teachers import sections

FEW_EXAMPLES = 500
LOW_VOLUME = 10_000
"""Requests a month below which a student rarely earns its upkeep."""

LONG_PAYBACK = 12.0
"""Months; models and prices change faster."""

LOW_MASS = 0.9
"""Top-k distributions are a biased target, the more so the less mass they hold (Anshumann et al., "Sparse Logit
Sampling", ACL 2025, aclanthology.org/2025.acl-long.885)."""

CONTRACT_KEPT = 0.95
MANY_DUPLICATES = 0.05
_TOKEN_PRICES = ("teacher_input", "teacher_output", "student_input", "student_output")

LOGPROB_NOISE = 1e-2
"""Nats; in bfloat16 the size of a batch alone can move a logprob by more."""


def judge_inputs(recipe: Recipe, inputs: Inputs) -> Iterator[Finding]:
    """What the recipe, its data and its tokenizers tell by themselves."""
    distinct = inputs.records - inputs.duplicates
    if distinct < FEW_EXAMPLES:
        yield Finding(
            name="few-examples",
            text=f"{distinct} different records are few: a narrow task usually needs {FEW_EXAMPLES} or more.",
            remedy="Add prompts; they need no labels.",
        )
    if inputs.duplicates > MANY_DUPLICATES * inputs.records:
        yield Finding(
            name="duplicates",
            text=f"{inputs.duplicates} of {inputs.records} prompts came before: the teacher answers them all, and"
            " curation keeps the first of each.",
            remedy="Leave the duplicates out of the data, and take other prompts in their place.",
        )
    yield from _calibration(recipe, inputs)
    if inputs.labelled == 0:
        yield Finding(
            name="no-gold",
            text="no record has a gold answer, so the student is held against the teacher alone, mistakes included.",
            remedy="Label a few hundred records and name their column in `data.label`.",
        )
    elif recipe.evaluation.against == "gold" and inputs.labelled < inputs.records:
        yield Finding(
            name="no-gold",
            text=f"{inputs.records - inputs.labelled} of {inputs.records} records have no gold answer, and"
            " `evaluation.against: gold` needs one of every record that it tests.",
            remedy="Label them, leave them out with `data.where`, or set `evaluation.against: teacher`.",
        )
    for name, records in inputs.by_teacher.items():
        if not records:
            yield Finding(
                name="unused-teacher",
                text=f"no record goes to the teacher {name!r}.",
                remedy="Look at the members' `when`: its values are compared with the columns' as they are.",
            )
    if inputs.without_completion:
        yield Finding(
            name="no-completion",
            text=f"{inputs.without_completion} of {inputs.records} records have no completion to score, and will fail.",
            remedy="Fill the column, leave the records out with `data.where`, or raise `capture.max_failed`.",
        )
    yield from _lengths(recipe, inputs)
    if (wide := width_finding(recipe.task)) is not None:
        yield wide
    yield from spelling_findings(recipe.task, inputs.tokenizer)
    for section in sections(recipe):
        if section.url is None and models.is_dequantised(section.model):
            yield Finding(
                name="dequantised",
                text=f"the weights of {section.model} are dequantised from GGUF: less exact than the original's.",
                remedy="Take the original weights, where there is room for them.",
            )


def judge_keys(recipe: Recipe) -> Iterator[Finding]:
    """Keys that are not in this environment; whoever asks the endpoint refuses to go on without them."""
    for name in dict.fromkeys(section.api_key_env for section in sections(recipe) if section.url is not None):
        if name is not None and not os.environ.get(name, "").strip():
            yield Finding(
                name="no-key",
                text=f"the environment variable {name} holds no key for the teacher's endpoint.",
                remedy="Set it where the capture runs, or `teacher.api_key_env: null` for an endpoint without keys.",
            )


def judge_teacher(recipe: Recipe, found: TeacherFound) -> Iterator[Finding]:
    """What a teacher's sample tells."""
    of = f" of {found.model}" if recipe.ensemble else ""
    if found.determinism is not None and not found.determinism.same:
        yield Finding(
            name="not-deterministic",
            text=f"one prompt, asked three times with one seed, had different completions{of}.",
            remedy="Set `task.sampling.temperature: 0` if the task allows it; a second capture will differ.",
        )
    elif found.determinism is not None and (found.determinism.logprob_difference or 0) > LOGPROB_NOISE:
        yield Finding(
            name="not-deterministic",
            text=f"one prompt, asked three times, had the same tokens{of} with logprobs that differ by up to"
            f" {found.determinism.logprob_difference:.3f} nats.",
            remedy="`dtype: float32` makes them exacter; the noise is that of what runs the teacher.",
        )
    if found.mass is not None and found.mass.mean < LOW_MASS:
        yield Finding(
            name="low-mass",
            text=f"the kept tokens{of} hold {found.mass.mean:.2f} of the probability on average, and"
            f" {found.mass.p5:.2f} at the 5th percentile.",
            remedy="Raise `capture.top_k` (or `capture.mass`), or take `capture.mode: sampled`, which is unbiased.",
        )
    if found.contract.value < CONTRACT_KEPT:
        kept = round(found.contract.value * found.contract.n)
        yield Finding(
            name="contract-broken",
            text=f"{kept} of {found.contract.n} answers{of} keep the task's contract; the others will be dropped.",
            remedy="Say in the prompt what an answer looks like, with an example; or raise `task.max_tokens`.",
        )
    if found.truncated:
        yield Finding(
            name="truncated",
            text=f"{found.truncated} of {found.contract.n} answers{of} were cut off by `task.max_tokens`.",
            remedy="Raise `task.max_tokens`, or ask for shorter answers: what was cut off is dropped.",
        )
    if found.failed > recipe.capture.max_failed * found.sampled:
        yield Finding(
            name="failed-answers",
            text=f"{found.failed} of {found.sampled} prompts{of} had no answer: {found.failure}.",
            remedy="See to the first one; a capture fails beyond `capture.max_failed`.",
        )
    if found.misread:
        yield Finding(
            name="misread-tokens",
            text=f"the token ids of {found.misread} of {found.contract.n} answers{of} do not decode to their text.",
            remedy="Name the tokenizer that the teacher really has.",
        )


def judge_cost(recipe: Recipe, cost: float | None, payback: Payback | None) -> Iterator[Finding]:
    """Whether it pays. `cost` is the capture's, as far as it is known."""
    prices, budget = recipe.prices, recipe.capture.budget
    if prices.monthly_requests is not None and prices.monthly_requests < LOW_VOLUME:
        yield Finding(
            name="low-volume",
            text=f"{prices.monthly_requests:,} requests a month are few for a model of one's own.",
            remedy="Distil where the volume is; below that a cheaper teacher or a shorter prompt saves more.",
        )
    if not (prices.teacher_input or prices.teacher_output):
        yield Finding(
            name="no-prices",
            text="the teacher's prices are not given, so neither cost nor payback is known.",
            remedy="Set `prices`; for a model of your own, what its hardware costs a million tokens.",
        )
        return
    if missing := [f"`prices.{key}`" for key in _TOKEN_PRICES if getattr(prices, key) is None]:
        yield Finding(
            name="unpriced",
            text=f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not given, and count as nothing here:"
            " the payback is better than it will be.",
            remedy="Set them; for a student of your own, what its hardware costs a million tokens.",
        )
    if cost is not None and budget is not None and cost > budget:
        yield Finding(
            name="over-budget",
            text=f"the capture is estimated at {cost:.2f} {prices.currency}, and `capture.budget` is {budget:g}.",
            remedy="Raise it, or take fewer records with `data.limit`; a capture that stops there can be resumed.",
        )
    if payback is None:
        return
    if payback.partial.break_even_requests is None:
        yield Finding(
            name="no-saving",
            text=f"a student that answers {COVERAGE:.0%} alone saves nothing: a million requests cost"
            f" {payback.teacher:.2f} {payback.currency} with the teacher, and {payback.student:.2f} with the student.",
            remedy="Take a smaller student, or look at `prices`.",
        )
        return
    if payback.monthly_requests is None:
        yield Finding(
            name="unknown-volume",
            text=f"how many requests a month there are is not given; the cost is earned back after"
            f" {payback.partial.break_even_requests:,.0f} requests, if the student answers {COVERAGE:.0%} alone.",
            remedy="Set `prices.monthly_requests`.",
        )
        return
    months = (payback.partial.payback_days or 0.0) / DAYS_A_MONTH
    if months > LONG_PAYBACK:
        yield Finding(
            name="long-payback",
            text=f"it takes {months:.0f} months to earn {payback.one_off:.2f} {payback.currency}"
            f" back, if the student answers {COVERAGE:.0%} alone.",
            remedy="Capture fewer records (`data.limit`), take the Batch API (`teacher.batch`), or train less.",
        )


def _calibration(recipe: Recipe, inputs: Inputs) -> Iterator[Finding]:
    evaluation = recipe.evaluation
    records = round((inputs.records - inputs.duplicates) * recipe.curation.calibration)
    fitting = records_to_fit(records, evaluation.score, recipe.task)
    needed = smallest_sample(evaluation.alpha, evaluation.delta)
    if records - fitting >= needed:
        return
    score = f"`evaluation.score: {evaluation.score}`"
    others = f", as {score} is fitted on {fitting} of the {records} in the calibration split," if fitting else ","
    plain = ", name a score that is not fitted (`evaluation.score: sequence_probability`)" if fitting else ""
    yield Finding(
        name="few-for-calibration",
        text=f"about {records - fitting} records will calibrate the threshold{others} and `evaluation.alpha:"
        f" {evaluation.alpha:g}` cannot be promised on fewer than {needed}, not even without an error.",
        remedy=f"Add records, give `curation.calibration` a larger share{plain}, or promise less.",
    )


def _lengths(recipe: Recipe, inputs: Inputs) -> Iterator[Finding]:
    prompts = inputs.prompts
    if prompts.too_long:
        share = prompts.too_long / prompts.counted
        fails = share > recipe.capture.max_failed
        yield Finding(
            name="prompts-too-long",
            text=f"{prompts.too_long} of {prompts.counted} prompts are longer than the {inputs.fits} tokens that fit"
            f" beside an answer, and will fail{', and the capture with them' if fails else ''}.",
            remedy=f"Set `teacher.engine.max_model_len` to {prompts.longest + recipe.task.max_tokens} or more,"
            " or shorten the prompts.",
        )
    if prompts.too_long_for_student:
        keys = "`student.max_length` and `student.engine.max_model_len`"
        yield Finding(
            name="student-too-short",
            text=f"{prompts.too_long_for_student} of {prompts.counted} prompts do not fit the student.",
            remedy=f"Set {'`student.openai.max_example_tokens`' if recipe.student.openai is not None else keys} to"
            f" {prompts.longest + recipe.task.max_tokens} or more.",
        )
