"""What a student saves, and when that has paid for it.

See `stillhouse.cost.tokens` for the cascade's cost. Where fallbacks are told apart before the student reads them, a
request costs c S + (1 - c) T instead: the saving of that reading, c (T - S), is given beside ours, c T - S.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from stillhouse.cost.tokens import cascade_cost

COVERAGE = 0.7
"""The share of requests that a student is taken to answer alone where nothing is measured yet: a cautious one."""

DAYS_A_MONTH = 365.25 / 12


class AtCoverage(BaseModel):
    """What is saved where the student answers a share of the requests alone."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    coverage: float = Field(ge=0, le=1, description="Share of requests that the student answers alone.")
    cascade: float = Field(ge=0, description="A million requests: all read by the student, the rest by the teacher.")
    saving: float = Field(description="Saved on a million requests against the teacher alone; below 0: lost.")
    saving_if_routed: float = Field(
        description="The same if the student read only what it answers: the other reading of a cascade's cost."
    )
    monthly: float | None = Field(description="The cascade's cost of a month; None: of unknown volume.")
    monthly_saving: float | None = Field(description="Saved a month.")
    monthly_saving_if_routed: float | None = Field(description="Saved a month in the other reading.")
    break_even_requests: float | None = Field(
        description="Requests after which the one-off cost is paid; None: never, or that cost is not known."
    )
    payback_days: float | None = Field(description="Days until then; None: never, or not known.")


class Payback(BaseModel):
    """When the one-off cost of a student is earned back, at two shares of requests that it answers alone."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    currency: str = Field(description="Currency of the costs.")
    one_off: float | None = Field(ge=0, description="Capture, review, training and evaluation, once; None: not known.")
    teacher: float = Field(ge=0, description="A million requests, all answered by the teacher.")
    student: float = Field(ge=0, description="A million requests, all answered by the student.")
    monthly_requests: float | None = Field(description="Requests a month; None where that is not known.")
    monthly_teacher: float | None = Field(description="A month of the teacher alone.")
    least_coverage: float | None = Field(
        description="The cascade costs less than the teacher above this coverage, S / T; None: at no coverage."
    )
    full: AtCoverage = Field(description="The student answers everything.")
    partial: AtCoverage = Field(description="It answers the lower share.")


def payback(
    *,
    teacher: float,
    student: float,
    currency: str,
    one_off: float | None,
    monthly_requests: float | None,
    coverage: float,
) -> Payback:
    """The payback of a student.

    Args:
        teacher: cost of a million requests, all answered by the teacher.
        student: the same for the student.
        one_off: capture, review, training and evaluation; None where that is not known.
        monthly_requests: None where that is not known.
        coverage: in [0, 1], the share of requests that the student answers alone.

    Raises:
        ValueError: `coverage` is outside [0, 1].
    """
    if not 0 <= coverage <= 1:
        raise ValueError(f"A coverage lies between 0 and 1, but this one is {coverage}.")
    months = monthly_requests / 1e6 if monthly_requests is not None else None

    def at(share: float) -> AtCoverage:
        cascade = cascade_cost(student=student, teacher=teacher, fallback_rate=1 - share)
        saving, routed = teacher - cascade, share * (teacher - student)
        # What rounding leaves of a difference is no saving.
        pays = saving > 1e-12 * teacher
        needed = one_off / saving * 1e6 if one_off is not None and pays else None
        return AtCoverage(
            coverage=share,
            cascade=cascade,
            saving=saving,
            saving_if_routed=routed,
            monthly=_times(cascade, months),
            monthly_saving=_times(saving, months),
            monthly_saving_if_routed=_times(routed, months),
            break_even_requests=needed,
            payback_days=needed / monthly_requests * DAYS_A_MONTH if needed is not None and monthly_requests else None,
        )

    return Payback(
        currency=currency,
        one_off=one_off,
        teacher=teacher,
        student=student,
        monthly_requests=monthly_requests,
        monthly_teacher=_times(teacher, months),
        least_coverage=student / teacher if student < teacher else None,
        full=at(1.0),
        partial=at(coverage),
    )


def _times(million: float, months: float | None) -> float | None:
    return None if months is None else million * months
