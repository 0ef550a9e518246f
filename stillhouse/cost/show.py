"""A calculation or a ledger, as it is read on a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stillhouse.cost.calculator import Worth
from stillhouse.cost.entries import Entry, Item
from stillhouse.cost.ledger import Ledger, Serving
from stillhouse.cost.money import money
from stillhouse.cost.payback import AtCoverage, Payback
from stillhouse.cost.tokens import Tokens
from stillhouse.duration import span


def show_worth(worth: Worth, console: Console) -> None:
    """Print the calculator's answer."""
    plan = worth.plan
    console.print(
        Text(f"{plan.queries:,.0f} requests a month, {_count(plan.tokens)} tokens each, in {plan.currency}"),
        soft_wrap=True,
    )
    _payback(worth.payback, console)


def show_ledger(ledger: Ledger, console: Console) -> None:
    """Print what was spent, step by step, and what serving costs."""
    console.print(ledger.run, soft_wrap=True, markup=False)
    table = Table(box=None, pad_edge=False)
    table.add_column("step", no_wrap=True)
    table.add_column(ledger.currency, justify="right", no_wrap=True)
    table.add_column("what it is made of", overflow="fold")
    for entry in ledger.entries:
        table.add_row(Text(entry.step), Text(_amount(entry.amount)), Text(_made_of(entry)))
    for step in ledger.not_made:
        table.add_row(
            Text({"student": "training", "teacher": "tuning"}.get(step, step)), Text("–"), Text("not made yet")
        )
    without = f"what is known of it: not all of {_listed(ledger.unknown)}" if ledger.unknown else "so far"
    table.add_row(Text("spent"), Text(money(ledger.spent)), Text(without))
    console.print(table)
    if ledger.serving is not None:
        console.print()
        _serving(ledger.serving, ledger.currency, console)
    missing = dict.fromkeys((*ledger.missing, *(ledger.serving.missing if ledger.serving is not None else ())))
    if missing:
        keys = _listed([f"`{key}`" for key in missing])
        console.print(
            Text(f"Not given in the recipe: {keys}. What depends on a missing price is not known.", "yellow"),
            soft_wrap=True,
        )


def _serving(serving: Serving, currency: str, console: Console) -> None:
    console.print(Text(f"A request takes {_tokens(serving)}."), soft_wrap=True)
    if serving.payback is not None:
        _payback(serving.payback, console)
        return
    for who, cost in (("teacher", serving.teacher), ("student", serving.student)):
        if cost is not None:
            console.print(
                Text(f"A million requests cost {money(cost)} {currency} with the {who} alone."), soft_wrap=True
            )
    if serving.student_tokens is None:
        console.print(
            Text("What student and cascade cost is known once the student has been evaluated."), soft_wrap=True
        )


def _payback(paid: Payback, console: Console) -> None:
    """A column each for the teacher, the student alone and the cascade."""
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in ("teacher", "student alone", f"cascade, {_share(paid.partial.coverage)} by the student"):
        table.add_column(name, justify="right")
    for name, *cells in _rows(paid):
        table.add_row(Text(name), *(Text(cell) for cell in cells))
    console.print(table)
    for sentence in _sentences(paid):
        console.print(Text(sentence), soft_wrap=True)


def _rows(paid: Payback) -> Iterator[tuple[str, str, str, str]]:
    full, partial = paid.full, paid.partial
    yield "a million requests", money(paid.teacher), money(full.cascade), money(partial.cascade)
    if paid.monthly_teacher is not None:
        yield "a month", money(paid.monthly_teacher), _amount(full.monthly), _amount(partial.monthly)
        yield "saved a month", "", _amount(full.monthly_saving), _amount(partial.monthly_saving)
    else:
        yield "saved on a million", "", money(full.saving), money(partial.saving)
    if paid.one_off is not None:
        yield "break-even requests", "", _break_even(full), _break_even(partial)
        if paid.monthly_requests is not None:
            yield "paid back after", "", _after(full), _after(partial)


def _sentences(paid: Payback) -> Iterator[str]:
    """The model behind the numbers, and the answer."""
    share, currency = paid.partial.coverage, paid.currency
    yield (
        "The student reads every request, and the teacher those that fall back. If a fallback cost the teacher alone,"
        f" {_share(share)} would save {_saved(paid.partial.saving_if_routed, paid.partial.monthly_saving_if_routed)}."
    )
    if paid.least_coverage is None:
        yield "It does not pay: the student costs no less than the teacher."
        return
    least = _share(paid.least_coverage)
    yield f"The cascade costs less than the teacher where the student answers more than {least} alone."
    if paid.partial.saving <= 1e-12 * paid.teacher:
        yield f"It does not pay at {_share(share)}."
    elif paid.one_off is None:
        yield "When it has paid for itself is not known without the whole one-off cost."
    elif paid.partial.payback_days is not None:
        days = paid.partial.payback_days
        yield (
            f"It pays: {money(paid.one_off)} {currency} spent once are back after {_after(paid.full)}, or"
            f" {_after(paid.partial)} ({days:,.1f} days) at {_share(share)}."
        )
    else:
        yield f"It pays after {_break_even(paid.partial)} requests; `prices.monthly_requests` would tell when that is."


def _saved(million: float, month: float | None) -> str:
    return f"{money(million)} on a million requests" if month is None else f"{money(month)} a month"


def _break_even(found: AtCoverage) -> str:
    return "never" if found.break_even_requests is None else f"{found.break_even_requests:,.0f}"


def _after(found: AtCoverage) -> str:
    return "never" if found.payback_days is None else span(found.payback_days)


def _made_of(entry: Entry) -> str:
    told = " + ".join(map(_item, entry.items))
    return f"{told} ({entry.note})" if entry.note else told


def _item(item: Item) -> str:
    price = "?" if item.price is None else money(item.price)
    quantity = "?" if item.quantity is None else f"{item.quantity:,.0f}"
    if item.unit == "sum":
        return f"{item.what} in `{item.key}`"
    if item.unit == "tokens":
        return f"{quantity} {item.what} × {price} a million"
    hours = "?" if item.quantity is None else format(item.quantity, ",.2f" if item.quantity >= 1 else ".3g")
    return f"{hours} hours of {item.what} × {price} an hour"


def _tokens(serving: Serving) -> str:
    def told(tokens: Tokens) -> str:
        return f"{_count(tokens.prompt)} + {_count(tokens.completion)} tokens"

    teacher = f"{told(serving.teacher_tokens)} (prompt + completion) of the teacher"
    return teacher if serving.student_tokens is None else f"{teacher}, {told(serving.student_tokens)} of the student"


def _count(tokens: float) -> str:
    return f"{tokens:,.1f}".removesuffix(".0")


def _amount(amount: float | None) -> str:
    return "not known" if amount is None else money(amount)


def _share(share: float) -> str:
    return f"{100 * share:.1f}%".replace(".0%", "%")


def _listed(names: tuple[str, ...] | list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
