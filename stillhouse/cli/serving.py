"""What serves: the endpoint of a finished run, a teacher alone, and the page of the review."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stillhouse.cli.process import start
from stillhouse.cli.words import (
    RecipeArgument,
    RunOption,
    console,
    is_recipe,
    read_recipe,
    recipe_and_run,
    run_of,
)
from stillhouse.errors import UserError

HostOption = Annotated[str | None, typer.Option(help="Address to listen on. Default: the recipe's.")]
PortOption = Annotated[int | None, typer.Option(min=1, max=65535, help="Port. Default: the recipe's.")]


def serve(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A finished run: a folder, or s3://bucket/prefix.")],
    host: HostOption = None,
    port: PortOption = None,
) -> None:
    """Serve a run's student behind an OpenAI-compatible endpoint, with its teacher to fall back on."""
    from stillhouse.run import Run

    Run.open(run).finished("evaluation", "run")
    start("services.app", ["--run", run, *_address(host, port)])


def teacher(
    recipe: RecipeArgument,
    run: Annotated[
        str | None,
        typer.Option("--run", metavar="URI", help="For a teacher that is tuned: its run. Default: runs/NAME."),
    ] = None,
    host: HostOption = None,
    port: PortOption = None,
) -> None:
    """Serve the recipe's teacher alone, behind an OpenAI-compatible endpoint that captures can ask."""
    loaded = read_recipe(recipe)
    words = ["--recipe", str(recipe)]
    if loaded.teacher.tune is not None:
        words += ["--run", run_of(loaded, run)]
    start("services.teacher", [*words, *_address(host, port)])


def review(
    target: Annotated[
        str, typer.Argument(metavar="RUN|RECIPE", help="A run with a dataset, or a recipe of such a run.")
    ],
    reviewer: Annotated[str | None, typer.Option(metavar="NAME", help="Who judges. Default: the page asks.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port.")] = 8080,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open a browser.")] = False,
    export_to: Annotated[
        Path | None, typer.Option("--export", metavar="FILE", help="Write the sample to a .csv or .jsonl file instead.")
    ] = None,
    import_from: Annotated[
        Path | None, typer.Option("--import", metavar="FILE", help="Read such a file back, as --reviewer.")
    ] = None,
    status_only: Annotated[bool, typer.Option("--status", help="Print where the review stands instead.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --status: one JSON object and nothing else.")] = False,
    run: RunOption = None,
) -> None:
    """Judge a sample of the teacher's answers on a local web page; it is kept in the run, and can be gone on with."""
    if sum((export_to is not None, import_from is not None, status_only)) > 1:
        raise UserError("--export, --import and --status are three things to do: give one of them")
    if as_json and not status_only:
        raise UserError("--json goes with --status")
    if import_from is not None and reviewer is None:
        raise UserError("--import needs --reviewer: say whose judgements the file holds")
    recipe, opened = recipe_and_run(target, run)
    opened.finished("dataset", "curate")
    if export_to is None and import_from is None and not status_only:
        words = ["--run", opened.uri, "--host", host, "--port", str(port)]
        words += ["--recipe", target] if is_recipe(target) else []
        words += ["--reviewer", reviewer] if reviewer else []
        start("services.review", [*words, *(["--no-open"] if no_open else [])])
    from stillhouse.review.state import ReviewState

    state = ReviewState(recipe, opened)
    if export_to is not None:
        from stillhouse.review.exchange import write_sample

        count = write_sample(state, export_to)
        console.print(f"{export_to}: {count} records to judge", soft_wrap=True, markup=False)
        return
    if import_from is not None and reviewer is not None:
        from stillhouse.review.exchange import read_judgements

        count = read_judgements(state, import_from, reviewer)
        console.print(f"{import_from}: {count} new judgements by {reviewer}", soft_wrap=True, markup=False)
    if as_json:
        print(state.standing().model_dump_json())
    else:
        from stillhouse.review.show import show

        show(state.standing(), console)


def _address(host: str | None, port: int | None) -> list[str]:
    return [*(["--host", host] if host else []), *(["--port", str(port)] if port else [])]
