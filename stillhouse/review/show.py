"""Where a review stands, as it is read on a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stillhouse.metrics import Estimate
from stillhouse.review.agreement import Agreement
from stillhouse.review.state import Standing

_MOST_IDS = 10


def show(standing: Standing, console: Console) -> None:
    """Print one row a fact."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in _rows(standing):
        table.add_row(Text(name), Text(text))
    console.print(table)


def _rows(standing: Standing) -> Iterator[tuple[str, str]]:
    yield "sample", f"{standing.sample:,} of {standing.records:,} records, stratified"
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(standing.verdicts.items()))
    yield "judged", f"{standing.judged:,} of {standing.sample:,}{f' ({verdicts})' if verdicts else ''}"
    for name, count in standing.reviewers.items():
        yield "", f"{count:,} by {name}"
    yield "teacher's error", told_error(standing.error)
    for pair in standing.agreement:
        yield "agreement", f"{pair.first} and {pair.second}: {told_agreement(pair)}"
    if standing.disputed:
        more = ", …" if len(standing.disputed) > _MOST_IDS else ""
        ids = ", ".join(standing.disputed[:_MOST_IDS])
        yield "disputed", f"{len(standing.disputed)} ({ids}{more}), each counted as an error until it is resolved"
    if standing.max_error is not None:
        yield "bound", told_bound(standing)


def told_error(error: Estimate | None) -> str:
    """The estimated error with its interval."""
    if error is None:
        return "nothing is judged yet"
    return f"{error.value:.1%} (95%: {error.low:.1%} to {error.high:.1%}), from {error.n:,} judged"


def told_agreement(pair: Agreement) -> str:
    """Cohen's kappa, or why there is none."""
    if pair.kappa is None:
        return f"kappa undefined: one and the same verdict on all {pair.n} that both judged"
    return f"kappa {pair.kappa:.2f} ({pair.same:.0%} alike of {pair.n})"


def told_bound(standing: Standing) -> str:
    """Whether the recipe's bound is held."""
    held = f"the upper end is at most {standing.max_error:.1%}, and training may start"
    return standing.problem or held
