"""Check a recipe before money is spent: ask its teachers a few questions, and judge what they answer.

`python -m ray_jobs.check --recipe PATH [--json]`.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext, redirect_stdout
from typing import Any

import ray
from rich.console import Console

from ray_jobs.capture.job import scored_by
from ray_jobs.capture.open_teacher import open_teacher
from ray_jobs.capture.spending import ledger
from ray_jobs.capture.teacher import Failure, Question, Teacher
from ray_jobs.cluster import connected
from ray_jobs.entry import ending, parser_of
from ray_jobs.placement import remote_options
from ray_jobs.progress import say
from stillhouse.check.build import build
from stillhouse.check.findings import Check, TeacherFound
from stillhouse.check.inputs import SAMPLE, Inputs, drawn, read_inputs
from stillhouse.check.sample import Answered, Asked, measure
from stillhouse.check.show import show
from stillhouse.data import Record
from stillhouse.recipe import Recipe
from stillhouse.recipe import Teacher as TeacherSection
from stillhouse.recipe_file import load_recipe
from stillhouse.run import Run
from stillhouse.signal.schema import Completion
from stillhouse.task import Prompt, render
from stillhouse.teachers import names, section_of

MOST_REQUESTS = SAMPLE + 3
"""At one endpoint: the sample, two repeats of one of its prompts, and one request again that the endpoint wants put in
other words."""


def check(recipe: Recipe) -> Check:
    """Ask every teacher of the recipe a sample of its questions.

    Endpoints are asked from this process. Weights are run in an actor of Ray, where the capture would run them.

    Raises:
        UserError: something cannot work; it says what would.
    """
    inputs = read_inputs(recipe)
    asking = _cheaply(recipe)
    answered: dict[str, Asked] = {}
    found: dict[str, TeacherFound] = {}
    with ExitStack() as stack, tempfile.TemporaryDirectory(prefix="stillhouse-check-") as folder:
        run = Run.open(folder)
        run.begin(asking)
        # Endpoints first, whose account needs no cluster; but who scores another's completions comes after that one.
        order = sorted(names(recipe), key=lambda name: section_of(recipe, name).url is None)
        for name in order:
            section, records = section_of(asking, name), sample_of(recipe, inputs, name)
            if not records:  # a route that no row takes
                continue
            scored = scored_by(recipe, name)
            completions = _completions(asking, records, answered[scored] if scored else None)
            if section.url is not None:
                say("check", _announced(recipe, inputs, section, records))
                answered[name] = _ask_endpoint(asking, run, name, records, completions)
            else:
                say("check", f"starts {section.model}, and asks it {len(records) + 2} questions")
                stack.enter_context(connected())
                answered[name] = _ask_weights(asking, run, name, records, completions)
            found[name] = measure(recipe, inputs, answered[name])
    return build(recipe, inputs, [found[name] for name in names(recipe) if name in found])


def ask(
    teacher: Teacher,
    recipe: Recipe,
    name: str,
    records: Sequence[Record],
    completions: Mapping[str, str | list[int]] | None = None,
    ready: float = 0.0,
) -> Asked:
    """One prompt alone, alone again, and then the whole sample, that prompt among it.

    Args:
        completions: to score, by record; None: the teacher writes its own.
        ready: seconds that the teacher took to start.
    """
    questions = {
        record.id: Question(
            id=record.id,
            prompt=render(recipe.task, record.fields),
            seed=recipe.seed + i,
            completion=completions[record.id] if completions is not None else None,
        )
        for i, record in enumerate(records)
        if completions is None or record.id in completions
    }
    # Neither the shortest, which tells little, nor the longest, which may not fit.
    repeated = sorted(questions.values(), key=lambda question: len(_text(question.prompt)))[len(questions) // 2 :][:1]
    alone = [_answers(teacher, part, repeated)[0] for part in range(2) if repeated]
    began = time.monotonic()
    given = dict(zip(questions, _answers(teacher, 2, list(questions.values())), strict=True))
    seconds = time.monotonic() - began
    return Asked(
        name=name,
        model=teacher.identity.model,
        engine=teacher.identity.engine,
        dtype=teacher.identity.dtype,
        records=records,
        answers=[given.get(record.id, "there is no completion to score") for record in records],
        repeats=[*alone, *(given[question.id] for question in repeated)],
        seconds=seconds,
        ready=ready,
    )


def sample_of(recipe: Recipe, inputs: Inputs, name: str) -> list[Record]:
    """The records that a teacher is asked about, drawn from those that are its own."""
    return drawn(recipe, [record for record in inputs.looked_at if record.teacher in (None, name)])


class Asker:
    """The actor that holds a teacher's engine."""

    def __init__(self, recipe: Recipe, run: Run, name: str) -> None:
        self.recipe, self.run, self.name = recipe, run, name

    def ask(self, records: Sequence[Record], completions: Mapping[str, str | list[int]] | None) -> Asked:
        """Start the engine, and ask."""
        # Here and not when the actor starts, where a mistake of the user would end in Ray's traceback.
        began = time.monotonic()
        teacher = open_teacher(self.recipe, self.run, self.name)
        return ask(teacher, self.recipe, self.name, records, completions, time.monotonic() - began)


def _ask_weights(
    recipe: Recipe, run: Run, name: str, records: Sequence[Record], completions: Mapping[str, str | list[int]] | None
) -> Asked:
    options = remote_options(section_of(recipe, name).engine)
    asker = ray.remote(Asker).options(**options).remote(recipe, run, name)
    try:
        found: Asked = ray.get(asker.ask.remote(records, completions))
        return found
    finally:
        ray.kill(asker)


def _ask_endpoint(
    recipe: Recipe, run: Run, name: str, records: Sequence[Record], completions: Mapping[str, str | list[int]] | None
) -> Asked:
    began = time.monotonic()
    before = ledger(run)
    teacher = open_teacher(recipe, run, name)
    found = ask(teacher, recipe, name, records, completions, time.monotonic() - began)
    if not all(isinstance(each, Completion) for each in [*found.answers, *found.repeats]):
        return found  # what went unanswered is in the account with what it may have cost
    after = ledger(run)
    billed = tuple(after[column] - before[column] for column in ("prompt_tokens", "completion_tokens"))
    return Asked(**{**vars(found), "billed": billed if any(billed) else None})


def _answers(teacher: Teacher, part: int, questions: Sequence[Question]) -> list[Answered]:
    answers = teacher.answer(part, questions) if questions else []
    return [each.error if isinstance(each, Failure) else each[0] for each in answers]


def _completions(recipe: Recipe, records: Sequence[Record], scored: Asked | None) -> dict[str, str | list[int]] | None:
    """What is to be scored, by record; None where the teacher writes its own completions."""
    if scored is not None:
        pairs = zip(scored.records, scored.answers, strict=True)
        return {record.id: given.token_ids for record, given in pairs if isinstance(given, Completion)}
    if recipe.capture.completions == "teacher":
        return None
    return {record.id: record.completion for record in records if record.completion is not None}


def _cheaply(recipe: Recipe) -> Recipe:
    """The recipe as it is asked here: one completion a prompt, at once and not as a batch, and nothing sent again."""
    changes: dict[str, Any] = {"capture": recipe.capture.model_copy(update={"n": 1})}
    once = {"batch": False, "max_attempts": 1}
    changes["teacher"] = recipe.teacher.model_copy(update=once)
    if recipe.ensemble is not None:
        members = tuple(member.model_copy(update=once) for member in recipe.ensemble.members)
        changes["ensemble"] = recipe.ensemble.model_copy(update={"members": members})
    return recipe.model_copy(update=changes)


def _announced(recipe: Recipe, inputs: Inputs, section: TeacherSection, records: Sequence[Record]) -> str:
    """What asking an endpoint will cost at most, said before it is asked."""
    said = f"asks {section.model} at {section.url} at most {MOST_REQUESTS} times"
    prices = recipe.prices
    if not (prices.teacher_input or prices.teacher_output):
        return f"{said}; `prices` does not say at what cost"
    lengths = [
        len(_text(render(recipe.task, record.fields)).encode()) for record in records
    ]  # a token has a byte or more
    prompts = sum(lengths) + (MOST_REQUESTS - SAMPLE) * max(lengths) + _AROUND * MOST_REQUESTS
    writes = MOST_REQUESTS * recipe.task.max_tokens
    cost = (prompts * (prices.teacher_input or 0.0) + writes * (prices.teacher_output or 0.0)) / 1e6
    return f"{said}: at most {cost:.4f} {prices.currency}"


_AROUND = 64
"""More tokens than a chat template puts around a prompt."""


def _text(prompt: Prompt) -> str:
    return prompt.text if prompt.text is not None else "".join(str(m["content"]) for m in prompt.messages or ())


def main() -> None:
    """Parse the words and check; a user's mistake is one sentence and exit status 2."""
    parser = parser_of("check", __doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    words = parser.parse_args()
    with ending("nothing is kept of a check"):
        # Progress goes elsewhere where the output is for a program.
        with redirect_stdout(sys.stderr) if words.json else nullcontext():
            found = check(load_recipe(words.recipe))
        if words.json:
            print(found.model_dump_json())
        else:
            show(found, Console(highlight=False))


if __name__ == "__main__":
    main()
