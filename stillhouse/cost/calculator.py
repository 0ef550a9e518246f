"""Is it worth it? From a volume and prices alone, before anything is captured."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stillhouse.cost.payback import COVERAGE, Payback, payback
from stillhouse.cost.tokens import Tokens, cost_per_million
from stillhouse.errors import UserError


class Plan(BaseModel):
    """A volume, its tokens and their prices; the names are those of the command's options."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    queries: float = Field(gt=0, le=1e15, description="Requests a month.")
    tokens: float = Field(gt=0, le=1e9, description="Tokens of one request, prompt and completion together.")
    output_tokens: float = Field(ge=0, description="As many of them are the completion's.")
    teacher_price: float = Field(
        ge=0, le=1e9, description="A million tokens of the teacher; of a prompt, if two differ."
    )
    teacher_output_price: float = Field(ge=0, le=1e9, description="A million tokens of its completions.")
    student_price: float = Field(
        ge=0, le=1e9, description="A million tokens of the student; of a prompt, if two differ."
    )
    student_output_price: float = Field(ge=0, le=1e9, description="A million tokens of its completions.")
    once: float | None = Field(ge=0, le=1e15, description="One-off cost; None: not known.")
    coverage: float = Field(ge=0, le=1, description="Share of requests that the student answers alone.")
    currency: str = Field(min_length=1, max_length=8, description="Of all prices.")


class Worth(BaseModel):
    """What was asked, and what comes of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    plan: Plan
    payback: Payback


_NEEDED = ("queries", "tokens", "teacher_price", "student_price")


def plan(options: Mapping[str, float | str]) -> Plan:
    """The plan behind the command's options, by their names; those that were not given are not in it.

    Completions cost what prompts do, unless they are told apart.

    Raises:
        UserError: an option is missing or out of bounds, or completions have a price and no tokens.
    """
    if missing := [_option(name) for name in _NEEDED if name not in options]:
        raise UserError(f"a calculation needs {', '.join(missing)}; or name a run or a recipe, in place of all options")
    priced = [name for name in ("teacher_output_price", "student_output_price") if name in options]
    if priced and "output_tokens" not in options:
        raise UserError(f"{_option(priced[0])} needs --output-tokens: how many of the --tokens are the completion's")
    defaults = {
        "output_tokens": 0.0,
        "teacher_output_price": options["teacher_price"],
        "student_output_price": options["student_price"],
        "once": None,
        "coverage": COVERAGE,
        "currency": "USD",
    }
    try:
        found = Plan.model_validate({**defaults, **options})
    except ValidationError as error:
        # A price of completions that was taken from the prompts' is named last.
        problem = error.errors()[0]
        said = problem["msg"][0].lower() + problem["msg"][1:]
        raise UserError(f"{_option(str(problem['loc'][0]))} is {problem['input']}: {said}") from error
    if found.output_tokens > found.tokens:
        raise UserError(
            f"--output-tokens is {found.output_tokens:g}, and a request has {found.tokens:g} tokens in all (--tokens)"
        )
    return found


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def worth(plan: Plan) -> Worth:
    """The payback of a plan; the student is taken to read and write the teacher's tokens."""
    tokens = Tokens(prompt=plan.tokens - plan.output_tokens, completion=plan.output_tokens)
    teacher = cost_per_million(tokens, input_price=plan.teacher_price, output_price=plan.teacher_output_price)
    student = cost_per_million(tokens, input_price=plan.student_price, output_price=plan.student_output_price)
    assert teacher is not None
    assert student is not None
    found = payback(
        teacher=teacher,
        student=student,
        currency=plan.currency,
        one_off=plan.once,
        monthly_requests=plan.queries,
        coverage=plan.coverage,
    )
    return Worth(plan=plan, payback=found)
