"""A check, as it is read on a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stillhouse.check.findings import Check, Finding, Interval, TeacherFound
from stillhouse.cost import Payback
from stillhouse.cost.money import digits, money
from stillhouse.cost.payback import DAYS_A_MONTH
from stillhouse.duration import duration
from stillhouse.metrics import Estimate


def show(check: Check, console: Console) -> None:
    """Print it: one row a fact, then the warnings by name."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in _rows(check):
        table.add_row(Text(name), Text(text))
    console.print(table)
    for warning in check.warnings:
        console.print(_told(warning), soft_wrap=True)
    count = len(check.warnings)
    console.print(Text(f"{count} warning{'' if count == 1 else 's'}" if count else "nothing to warn of"))


def _told(warning: Finding) -> Text:
    told = Text.assemble((f"warning {warning.name}: ", "yellow"), warning.text[:1].upper() + warning.text[1:])
    return told.append(f" {warning.remedy}")


def _rows(check: Check) -> Iterator[tuple[str, str]]:
    gold = "all with a gold answer" if check.labelled == check.records else f"{check.labelled:,} with a gold answer"
    yield "records", f"{check.records:,}, {gold}"
    if check.tuned_on is not None:
        asked = "; the teacher that was asked here is not tuned yet" if check.teachers else ""
        yield "tuning", f"on {check.tuned_on:,} of the gold answers, before the capture{asked}"
    prompts = check.prompts
    of = "" if prompts.counted == check.records else f" of {prompts.counted:,} counted"
    of += "" if check.own_tokens else ", in the student's tokens"
    yield "prompt", f"{prompts.mean:.1f} tokens on average, {prompts.longest:,} the longest{of}"
    if check.largest_cost is not None:
        yield (
            "capture",
            f"{money(check.largest_cost)} {check.currency}, if every answer is as long as it may be",
        )
    for found in check.teachers:
        if len(check.teachers) > 1:
            yield "", ""
        ran = found.engine if found.endpoint else f"{found.engine}, {found.dtype}; ready after {found.ready:.0f} s"
        yield "teacher", f"{found.model} ({ran})"
        yield from _teacher_rows(found, check.currency)
    if len(check.teachers) > 1:
        yield "", ""
        whole = sum(found.cost.value for found in check.teachers)
        yield "together", f"{money(whole)} {check.currency}"
    yield from _payback_rows(check)
    if check.teachers:
        sampled = max(found.sampled for found in check.teachers)
        yield (
            "intervals",
            f"95%; t-intervals from {sampled} answers and {prompts.counted:,} counted prompts, Wilson for shares",
        )


def _teacher_rows(found: TeacherFound, currency: str) -> Iterator[tuple[str, str]]:
    answered = found.sampled - found.failed
    yield "asked", f"{found.requests} questions; {answered} of a sample of {found.sampled} answered"
    told = found.determinism
    if told is None:
        yield "determinism", "not known: the repeated prompt had no answer"
    elif not told.same:
        yield "determinism", "one prompt, three times: different completions"
    elif told.logprob_difference is None:
        yield "determinism", "one prompt, three times: the same tokens"
    elif not told.logprob_difference:
        yield "determinism", "one prompt, three times: the same tokens and logprobs"
    else:
        yield (
            "determinism",
            f"one prompt, three times: the same tokens, logprobs within {told.logprob_difference:.1e} nats",
        )
    yield "contract", f"kept by {_share(found.contract)} of the answers"
    if found.right is not None:
        yield "right", f"{_share(found.right)} of {found.right.n} answers that have a gold one"
    if found.mass is not None:
        yield (
            "mass",
            f"{found.mass.mean:.3f} of the probability is kept on average, {found.mass.p5:.3f} at the 5th percentile",
        )
    yield "completion", f"{_interval(found.completion, '.1f')} tokens"
    yield "tokens", f"{_interval(found.tokens, ',.0f')} for {found.records:,} records"
    yield "time", _time(found)
    cost = f"{_interval(found.cost, digits(found.cost.value))} {currency}"
    yield "cost", cost if found.cost.value else "not known: `prices` has none for the teacher"


def _payback_rows(check: Check) -> Iterator[tuple[str, str]]:
    paid = check.payback
    if paid is None:
        yield "payback", "not known"
        return
    yield (
        "a million requests",
        f"{paid.teacher:,.2f} {paid.currency} with the teacher, {paid.student:,.2f} with the student",
    )
    if paid.partial.break_even_requests is None:
        yield "payback", "never"
    elif paid.full.payback_days is None or paid.partial.payback_days is None:
        after = f"after {paid.partial.break_even_requests:,.0f} requests"
        yield (
            "payback",
            f"{after}, {paid.partial.coverage:.0%} answered by the student alone, for {_once(check, paid)}",
        )
    else:
        yield (
            "payback",
            f"{_months(paid.partial.payback_days)} with {paid.partial.coverage:.0%} answered by the student alone,"
            f" {_months(paid.full.payback_days)} with all, for {_once(check, paid)}",
        )


def _share(estimate: Estimate) -> str:
    return f"{estimate.value:.0%} ({estimate.low:.0%}–{estimate.high:.0%})"


def _interval(interval: Interval, form: str) -> str:
    value = format(interval.value, form)
    if interval.low is None or interval.high is None:
        return f"{value} (from one answer alone)"
    low, high = format(interval.low, form), format(interval.high, form)
    return value if low == high else f"{value} ({low}–{high})"


def _time(found: TeacherFound) -> str:
    if found.batch:
        return "as long as the Batch API takes: its window is 24 hours"
    one = "asker" if found.endpoint else "engine"
    rate = f"at the sample's {found.tokens_per_second:,.0f} tokens/s"
    if found.engines == 1:
        return f"{_times(found.time)} here with one {one}, {rate}"
    best = duration(found.time.value / found.engines)
    return f"{_times(found.time)} here with one {one}, {rate}; at best {best} with {found.engines}"


def _once(check: Check, paid: Payback) -> str:
    training = "" if check.training is not None else "; `prices.training` is not given"
    return f"{money(paid.one_off or 0.0)} {paid.currency} once{training}"


def _times(interval: Interval) -> str:
    value = duration(interval.value)
    if interval.low is None or interval.high is None:
        return value
    low, high = duration(interval.low), duration(interval.high)
    return value if low == high else f"{value} ({low}–{high})"


def _months(days: float) -> str:
    months = days / DAYS_A_MONTH
    return "less than a month" if months < 1 else f"{months:,.1f} months"
