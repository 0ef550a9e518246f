"""What reads a run: where it stands, what it cost, two of them side by side, and its dataset for other trainers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from stillhouse.cli.words import JsonOption, RunOption, console, recipe_and_run
from stillhouse.errors import UserError


def status(
    target: Annotated[str, typer.Argument(metavar="RUN|RECIPE", help="A run, or a recipe to hold its run against.")],
    run: RunOption = None,
) -> None:
    """Say of each step whether it is done, stale (and why), cut off or missing."""
    from stillhouse import lineage
    from stillhouse.status import show

    recipe, opened = recipe_and_run(target, run)
    show(lineage.statuses(recipe, opened), opened, console)


def cost(
    target: Annotated[
        str | None, typer.Argument(metavar="[RUN|RECIPE]", help="A run, or a recipe of such a run: print its ledger.")
    ] = None,
    run: RunOption = None,
    queries: Annotated[float | None, typer.Option(help="Without a run: requests a month, 1e6 say.")] = None,
    tokens: Annotated[float | None, typer.Option(help="Tokens of one request, prompt and completion.")] = None,
    output_tokens: Annotated[float | None, typer.Option(help="As many of them are the completion's.")] = None,
    teacher_price: Annotated[float | None, typer.Option(help="A million tokens of the teacher.")] = None,
    teacher_output_price: Annotated[float | None, typer.Option(help="Of its completions, if they differ.")] = None,
    student_price: Annotated[float | None, typer.Option(help="A million tokens of the student.")] = None,
    student_output_price: Annotated[float | None, typer.Option(help="Of its completions, if they differ.")] = None,
    once: Annotated[float | None, typer.Option(help="Capture, review, training and evaluation, once.")] = None,
    coverage: Annotated[
        float | None, typer.Option(help="Share of requests that the student answers alone. Default: 0.7.")
    ] = None,
    currency: Annotated[str | None, typer.Option(help="Of all prices. Default: USD.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a run has cost and what serving it costs; or, from a volume and prices alone, whether it is worth it."""
    from stillhouse.cost import show

    options = {
        "queries": queries,
        "tokens": tokens,
        "output_tokens": output_tokens,
        "teacher_price": teacher_price,
        "teacher_output_price": teacher_output_price,
        "student_price": student_price,
        "student_output_price": student_output_price,
        "once": once,
        "coverage": coverage,
        "currency": currency,
    }
    given = {name: value for name, value in options.items() if value is not None}
    if target is None:
        from stillhouse.cost.calculator import plan, worth

        if run is not None:
            raise UserError("--run goes with a recipe: name one, or the run in its place")
        answer = worth(plan(given))
        print(answer.model_dump_json()) if as_json else show.show_worth(answer, console)
        return
    if given:
        option = f"--{next(iter(given)).replace('_', '-')}"
        raise UserError(f"{option} is for a calculation without a run, and {target} has its own figures: leave one out")
    from stillhouse.cost.ledger import ledger
    from stillhouse.review.effort import minutes
    from stillhouse.review.journal import judgements

    recipe, opened = recipe_and_run(target, run)
    found = ledger(recipe, opened, review_minutes=minutes(judgements(opened)))
    print(found.model_dump_json()) if as_json else show.show_ledger(found, console)


def compare(
    first: Annotated[str, typer.Argument(metavar="RUN", help="A finished run: a folder, or s3://bucket/prefix.")],
    second: Annotated[str, typer.Argument(metavar="RUN", help="Another one, of the same task.")],
    as_json: JsonOption = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a self-contained page too.")] = None,
) -> None:
    """Hold two finished runs of one task against each other: quality, promises, costs, and what was changed."""
    from stillhouse.compare import compare as hold
    from stillhouse.compare.show import render_comparison, show
    from stillhouse.embeddings import embed
    from stillhouse.run import Run

    found = hold(Run.open(first), Run.open(second), embed=embed)
    if html is not None:
        try:
            html.write_text(render_comparison(found), encoding="utf-8")
        except OSError as error:
            raise UserError(f"--html {html} cannot be written: {error.strerror}") from error
    print(found.model_dump_json()) if as_json else show(found, console)


def export(
    target: Annotated[
        str, typer.Argument(metavar="RUN|RECIPE", help="A run with a dataset, or a recipe of such a run.")
    ],
    format_: Annotated[
        Literal["openai", "trl", "axolotl", "sharegpt"],
        typer.Option("--format", help="Whose format; `openai` is held against OpenAI's published rules."),
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the files go, one a split.")],
    split: Annotated[str, typer.Option(help="Splits of the dataset, with commas.")] = "train,validation",
    on: Annotated[Literal["teacher", "gold"], typer.Option(help="Whose answers.")] = "teacher",
    run: RunOption = None,
) -> None:
    """Write the dataset as JSONL files for another trainer."""
    from stillhouse.export.write import export as write

    recipe, opened = recipe_and_run(target, run)
    splits = [name.strip() for name in split.split(",") if name.strip()]
    for written in write(recipe, opened, format_, out, splits=splits, on=on):
        left = "".join(f", {count} left out ({reason})" for reason, count in written.left_out.items())
        console.print(
            f"{written.path}: {written.examples} examples, {written.size / 1e6:.1f} MB{left}",
            soft_wrap=True,
            markup=False,
        )
