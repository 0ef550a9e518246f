"""What a million requests cost, from measured tokens a request and prices a million tokens; and when that pays."""

from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field


class TokenPrices(Protocol):
    """Prices of a million tokens in one currency; the recipe's `prices` is one."""

    @property
    def currency(self) -> str: ...
    @property
    def teacher_input(self) -> float: ...
    @property
    def teacher_output(self) -> float: ...
    @property
    def student_input(self) -> float: ...
    @property
    def student_output(self) -> float: ...


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


def cost_per_million(tokens: Tokens, *, input_price: float, output_price: float) -> float:
    """Cost of a million requests, in the prices' currency.

    `tokens` is the mean per request, prices are per million tokens; the two millions cancel.
    """
    return tokens.prompt * input_price + tokens.completion * output_price


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
    request of mean length. Raises ValueError when `fallback_rate` is outside [0, 1].
    """
    teacher_cost = cost_per_million(teacher, input_price=prices.teacher_input, output_price=prices.teacher_output)
    student_cost = cost_per_million(student, input_price=prices.student_input, output_price=prices.student_output)
    return Costs(
        currency=prices.currency,
        teacher=teacher_cost,
        student=student_cost,
        cascade=cascade_cost(student=student_cost, teacher=teacher_cost, fallback_rate=fallback_rate),
    )


class Payback(BaseModel):
    """When the one-off cost of a student is earned back, at two shares of requests that it answers alone."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    currency: str = Field(description="Currency of the costs.")
    one_off: float = Field(ge=0, description="Capture and training, once.")
    teacher: float = Field(ge=0, description="A million requests, all answered by the teacher.")
    student: float = Field(ge=0, description="A million requests, read by the student.")
    monthly_requests: int | None = Field(description="Requests a month; None where the recipe does not say.")
    coverage: float = Field(gt=0, le=1, description="The lower share of requests that the student answers alone.")
    months: float | None = Field(
        description="Months until it is paid, if the student answers everything; None: never, or of unknown volume."
    )
    months_at_coverage: float | None = Field(description="The same at `coverage`.")
    break_even_requests: float | None = Field(
        description="Requests at `coverage` after which it is paid; None: the cascade is no cheaper than the teacher."
    )


def payback(
    *,
    teacher: Tokens,
    student: Tokens,
    prices: TokenPrices,
    one_off: float,
    monthly_requests: int | None,
    coverage: float,
) -> Payback:
    """The payback of a student whose requests take as many tokens as `student` says, its teacher's as `teacher`.

    A request saves the teacher's price for the share of requests that the student answers alone, and costs the
    student's price always, since the cascade asks the student first. Raises ValueError when `coverage` is outside
    (0, 1].
    """
    if not 0 < coverage <= 1:
        raise ValueError(f"A coverage lies above 0 and up to 1, but this one is {coverage}.")
    asked = cost_per_million(teacher, input_price=prices.teacher_input, output_price=prices.teacher_output)
    answered = cost_per_million(student, input_price=prices.student_input, output_price=prices.student_output)

    def requests(share: float) -> float | None:
        saved = asked - cascade_cost(student=answered, teacher=asked, fallback_rate=1 - share)
        return one_off / saved * 1e6 if saved > 0 else None

    def months(share: float) -> float | None:
        needed = requests(share)
        return None if needed is None or monthly_requests is None else needed / monthly_requests

    return Payback(
        currency=prices.currency,
        one_off=one_off,
        teacher=asked,
        student=answered,
        monthly_requests=monthly_requests,
        coverage=coverage,
        months=months(1),
        months_at_coverage=months(coverage),
        break_even_requests=requests(coverage),
    )
