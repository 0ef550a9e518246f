"""The pipeline's steps: before money is spent, each by itself, all of them here, and all of them on a cluster."""

from __future__ import annotations

import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from stillhouse.cli.process import start
from stillhouse.cli.words import JsonOption, RecipeArgument, RunOption, console, read_recipe, run_of


def check(
    recipe: RecipeArgument,
    teacher: Annotated[
        bool,
        typer.Option("--teacher/--no-teacher", help="Ask the teacher about 20 records, or read recipe and data alone."),
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Say before money is spent what cannot work, what a capture would take and cost, and what to mend first."""
    loaded = read_recipe(recipe)
    if teacher:
        start("ray_jobs.check", ["--recipe", str(recipe), *(["--json"] if as_json else [])])
    from stillhouse.check.build import check_without_teacher
    from stillhouse.check.show import show

    # A filter of the user's own may print, and the output is for a program.
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        found = check_without_teacher(loaded)
    if as_json:
        print(found.model_dump_json())
    else:
        show(found, console)


def tune(recipe: RecipeArgument, run: RunOption = None) -> None:
    """Fine-tune the teacher on gold labels first, if the recipe says so (`teacher.tune`), to RUN/teacher."""
    from stillhouse.tuning import section_of

    section_of(read_recipe(recipe))
    _job("tune", recipe, run)


def capture(recipe: RecipeArgument, run: RunOption = None) -> None:
    """Ask the teacher: completions with their token distributions, to RUN/capture."""
    _job("capture", recipe, run)


def curate(recipe: RecipeArgument, run: RunOption = None) -> None:
    """Filter, deduplicate and split the capture, to RUN/dataset."""
    _job("curate", recipe, run)


def train(recipe: RecipeArgument, run: RunOption = None) -> None:
    """Train the student on the dataset, to RUN/student."""
    _job("train", recipe, run)


def evaluate(recipe: RecipeArgument, run: RunOption = None) -> None:
    """Hold the student against the teacher, choose the threshold, and write the report, to RUN/evaluation."""
    _job("evaluate", recipe, run)


def run(recipe: RecipeArgument, run: RunOption = None) -> None:
    """All steps, from prompts to a policy; what is up to date is skipped, what was cut off goes on."""
    _job("pipeline", recipe, run)


def submit(
    recipe: RecipeArgument,
    run: Annotated[str, typer.Option("--run", metavar="URI", help="Where the cluster writes: s3://bucket/prefix.")],
    address: Annotated[str, typer.Option(help="The cluster's dashboard, http://HOST:8265.")] = "http://127.0.0.1:8265",
) -> None:
    """Hand the pipeline to a Ray cluster, follow its logs, and return its exit status."""
    from stillhouse.submit import submit as hand_over

    read_recipe(recipe)
    raise typer.Exit(hand_over(recipe, run, address))


def _job(step: str, recipe: Path, run: str | None) -> NoReturn:
    start(f"ray_jobs.{step}", ["--recipe", str(recipe), "--run", run_of(read_recipe(recipe), run)])
