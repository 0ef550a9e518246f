"""A comparison as it is read: on a terminal, and as one HTML file."""

from __future__ import annotations

from itertools import groupby

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stillhouse.compare.model import Changed, Comparison
from stillhouse.compare.rows import fact_rows, score_rows
from stillhouse.report.render import environment
from stillhouse.report.tables import Cell

_COLOURS = {"good": "green", "bad": "red", "": ""}


def show(found: Comparison, console: Console) -> None:
    """Print both runs side by side."""
    for name, side in (("first", found.first), ("second", found.second)):
        console.print(Text(f"{name}: {side.run}"), soft_wrap=True)
        console.print(Text(side.verdict), soft_wrap=True)
    console.print()
    scores = _table("", "first", "second", "second − first")
    for row in score_rows(found):
        scores.add_row(Text(f"{row.who}: {row.name}"), _told(row.first), _told(row.second), _told(row.difference))
    console.print(scores)
    for remark in found.remarks:
        console.print(Text(remark, "yellow"), soft_wrap=True)
    console.print()
    facts = _table("", "first", "second", justify="left")
    for fact in fact_rows(found):
        facts.add_row(*(Text(text) for text in fact))
    console.print(facts)
    for title, changes in (("recipe", found.recipe), ("made from", found.lineage)):
        console.print()
        if not changes:
            console.print(f"{title}: the same")
            continue
        table = _table(title, "first", "second", justify="left")
        for change in changes:
            table.add_row(Text(change.key), Text(short(change.first)), Text(short(change.second)))
        console.print(table)


def render_comparison(found: Comparison) -> str:
    """The comparison as a self-contained HTML document; every text of it is escaped."""
    made = environment()
    return made.get_template("compare.html").render(
        found=found,
        groups=[(who, list(rows)) for who, rows in groupby(score_rows(found), key=lambda row: row.who)],
        facts=list(fact_rows(found)),
        changes=[("What differs in the recipe", _shown(found.recipe)), ("Made from", _shown(found.lineage))],
    )


def short(value: str | None) -> str:
    """A value of the recipe or a hash, cut where it is too long to compare by eye."""
    if value is None:
        return "–"
    if len(value) == 64 and set(value) <= set("0123456789abcdef"):
        return value[:12]
    return value if len(value) <= 120 else f"{value[:119]}…"


def _shown(changes: tuple[Changed, ...]) -> list[tuple[str, str, str]]:
    return [(change.key, short(change.first), short(change.second)) for change in changes]


def _table(head: str, *columns: str, justify: str = "right") -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(head, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right" if justify == "right" else "left", overflow="fold")
    return table


def _told(cell: Cell | None) -> Text:
    return Text("–") if cell is None else Text(f"{cell.value} ({cell.interval})", _COLOURS[cell.sign])
