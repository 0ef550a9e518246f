"""What a million requests cost, from measured tokens a request and prices a million tokens.

The cascade's cost model: the student reads every request, and the teacher those that fall back. With S and T the costs
of a request to student and teacher and c the share that the student answers alone, a request costs S + (1 - c) T.
"""

from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field


class TokenPrices(Protocol):
    """Prices of a million tokens in one currency, None where one is not known; the recipe's `prices` is one."""

    @property
    def currency(self) -> str: ...
    @property
    def teacher_input(self) -> float | None: ...
    @property
    def teacher_output(self) -> float | None: ...
    @property
    def student_input(self) -> float | None: ...
    @property
    def student_output(self) -> float | None: ...


class Tokens(BaseModel):
    """Mean tokens of one request."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    prompt: float = Field(ge=0, description="Prompt tokens read, mean per request.")
    completion: float = Field(ge=0, description="Completion tokens written, mean per request.")


class Costs(BaseModel):
    """Cost of a million requests, in `currency`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    currency: str = Field(description="Currency of the three costs.")
    teacher: float = Field(ge=0, description="A million requests, all answered by the teacher.")
    student: float = Field(ge=0, description="A million requests, all answered by the student.")
    cascade: float = Field(ge=0, description="A million requests through student and fallback.")
    unpriced: tuple[str, ...] = Field(
        default=(), description="Keys of the recipe's prices that are not given: their tokens count as nothing here."
    )


def cost_per_million(tokens: Tokens, *, input_price: float | None, output_price: float | None) -> float | None:
    """Cost of a million requests, in the prices' currency; None where tokens have no price.

    `tokens` is the mean per request, prices are per million tokens; the two millions cancel.
    """
    cost = 0.0
    for count, price in ((tokens.prompt, input_price), (tokens.completion, output_price)):
        if count and price is None:
            return None
        cost += count * (price or 0.0)
    return cost


def unpriced(who: Literal["teacher", "student"], tokens: Tokens, prices: TokenPrices) -> tuple[str, ...]:
    """The recipe's keys of the prices that `tokens` need and that are not given: `prices.teacher_input` and so on."""
    needed = ((f"{who}_input", tokens.prompt), (f"{who}_output", tokens.completion))
    return tuple(f"prices.{key}" for key, count in needed if count and getattr(prices, key) is None)


def cascade_cost(*, student: float, teacher: float, fallback_rate: float) -> float:
    """Cost of a million requests through the cascade: the student on every one, the teacher on the fallbacks.

    `student` and `teacher` are their costs of a million requests, `fallback_rate` is in [0, 1].
    Raises ValueError when the rate is outside [0, 1].
    """
    if not 0 <= fallback_rate <= 1:
        raise ValueError(f"A fallback rate lies between 0 and 1, but this one is {fallback_rate}.")
    return student + fallback_rate * teacher


def costs(*, teacher: Tokens, student: Tokens, fallback_rate: float, prices: TokenPrices) -> Costs:
    """Costs of a million requests for teacher, student and cascade, in the prices' currency.

    `teacher` and `student` are the mean tokens of a request that they answer; a fallback is taken to be a
    request of mean length. A price that is not given counts as nothing, and is named in `unpriced`. Raises ValueError
    when `fallback_rate` is outside [0, 1].
    """
    missing = (*unpriced("teacher", teacher, prices), *unpriced("student", student, prices))
    teacher_cost = teacher.prompt * (prices.teacher_input or 0.0) + teacher.completion * (prices.teacher_output or 0.0)
    student_cost = student.prompt * (prices.student_input or 0.0) + student.completion * (prices.student_output or 0.0)
    return Costs(
        currency=prices.currency,
        teacher=teacher_cost,
        student=student_cost,
        cascade=cascade_cost(student=student_cost, teacher=teacher_cost, fallback_rate=fallback_rate),
        unpriced=missing,
    )
