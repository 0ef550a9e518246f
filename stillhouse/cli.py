"""`stillhouse`: the commands.

They start the jobs by name, as a cluster does, so that a laptop and a cluster run one path.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer
from rich.console import Console

from stillhouse.errors import USER_ERROR_EXIT_CODE, UserError

if TYPE_CHECKING:
    from stillhouse.recipe import Recipe
    from stillhouse.run import Run

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Distil a large language model into a small student, and serve it with the teacher to fall back on.",
)
console = Console(highlight=False)

RecipeArgument = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe's YAML file.")]
RunOption = Annotated[
    str | None,
    typer.Option("--run", metavar="URI", help="The run: a folder, or s3://bucket/prefix. Default: runs/NAME."),
]


def main() -> None:
    """The console script: a user's mistake is one sentence and exit status 2."""
    try:
        app()
    except UserError as error:
        _fail(str(error))


@app.command()
def check(
    recipe: RecipeArgument,
    teacher: Annotated[
        bool,
        typer.Option("--teacher/--no-teacher", help="Ask the teacher about 20 records, or read recipe and data alone."),
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Say before money is spent what cannot work, what a capture would take and cost, and what to mend first."""
    loaded = _recipe(recipe)
    if teacher:
        _start("ray_jobs.check", ["--recipe", str(recipe), *(["--json"] if as_json else [])])
    from stillhouse.check.build import check_without_teacher
    from stillhouse.check.show import show

    # A filter of the user's own may print, and the output is for a program.
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        found = check_without_teacher(loaded)
    if as_json:
        print(found.model_dump_json())
    else:
        show(found, console)


@app.command()
def tune(recipe: RecipeArgument, run: RunOption = None) -> None:
    """Fine-tune the teacher on gold labels first, if the recipe says so (`teacher.tune`), to RUN/teacher."""
    from stillhouse.tuning import section_of

    section_of(_recipe(recipe))
    _job("tune", recipe, run)


@app.command()
def capture(recipe: RecipeArgument, run: RunOption = None) -> None:
    """Ask the teacher: completions with their token distributions, to RUN/capture."""
    _job("capture", recipe, run)


@app.command()
def curate(recipe: RecipeArgument, run: RunOption = None) -> None:
    """Filter, deduplicate and split the capture, to RUN/dataset."""
    _job("curate", recipe, run)


@app.command()
def train(recipe: RecipeArgument, run: RunOption = None) -> None:
    """Train the student on the dataset, to RUN/student."""
    _job("train", recipe, run)


@app.command()
def evaluate(recipe: RecipeArgument, run: RunOption = None) -> None:
    """Hold the student against the teacher, choose the threshold, and write the report, to RUN/evaluation."""
    _job("evaluate", recipe, run)


@app.command("run")
def run_(recipe: RecipeArgument, run: RunOption = None) -> None:
    """All steps, from prompts to a policy; what is up to date is skipped, what was cut off goes on."""
    _job("pipeline", recipe, run)


@app.command()
def serve(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A finished run: a folder, or s3://bucket/prefix.")],
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: the recipe's.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port. Default: the recipe's.")] = None,
) -> None:
    """Serve a run's student behind an OpenAI-compatible endpoint, with its teacher to fall back on."""
    from stillhouse.run import Run

    Run.open(run).finished("evaluation", "run")
    words = ["--run", run]
    words += ["--host", host] if host else []
    words += ["--port", str(port)] if port else []
    _start("services.app", words)


@app.command()
def teacher(
    recipe: RecipeArgument,
    run: Annotated[
        str | None,
        typer.Option("--run", metavar="URI", help="For a teacher that is tuned: its run. Default: runs/NAME."),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: the recipe's.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port. Default: the recipe's.")] = None,
) -> None:
    """Serve the recipe's teacher alone, behind an OpenAI-compatible endpoint that captures can ask."""
    loaded = _recipe(recipe)
    words = ["--recipe", str(recipe)]
    if loaded.teacher.tune is not None:
        words += ["--run", run or f"runs/{loaded.name}"]
    words += ["--host", host] if host else []
    words += ["--port", str(port)] if port else []
    _start("services.teacher", words)


@app.command()
def status(
    target: Annotated[str, typer.Argument(metavar="RUN|RECIPE", help="A run, or a recipe to hold its run against.")],
    run: RunOption = None,
) -> None:
    """Say of each step whether it is done, stale (and why), cut off or missing."""
    from stillhouse import lineage
    from stillhouse.status import show

    recipe, opened = _recipe_and_run(target, run)
    show(lineage.statuses(recipe, opened), opened, console)


@app.command()
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
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
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

    recipe, opened = _recipe_and_run(target, run)
    found = ledger(recipe, opened, review_minutes=minutes(judgements(opened)))
    print(found.model_dump_json()) if as_json else show.show_ledger(found, console)


@app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="RUN", help="A finished run: a folder, or s3://bucket/prefix.")],
    second: Annotated[str, typer.Argument(metavar="RUN", help="Another one, of the same task.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
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


@app.command()
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

    recipe, opened = _recipe_and_run(target, run)
    splits = [name.strip() for name in split.split(",") if name.strip()]
    for written in write(recipe, opened, format_, out, splits=splits, on=on):
        left = "".join(f", {count} left out ({reason})" for reason, count in written.left_out.items())
        console.print(
            f"{written.path}: {written.examples} examples, {written.size / 1e6:.1f} MB{left}",
            soft_wrap=True,
            markup=False,
        )


@app.command()
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
    recipe, opened = _recipe_and_run(target, run)
    opened.finished("dataset", "curate")
    if export_to is None and import_from is None and not status_only:
        words = ["--run", opened.uri, "--host", host, "--port", str(port)]
        words += ["--recipe", target] if Path(target).suffix in {".yaml", ".yml"} else []
        words += ["--reviewer", reviewer] if reviewer else []
        _start("services.review", [*words, *(["--no-open"] if no_open else [])])
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


@app.command()
def submit(
    recipe: RecipeArgument,
    run: Annotated[str, typer.Option("--run", metavar="URI", help="Where the cluster writes: s3://bucket/prefix.")],
    address: Annotated[str, typer.Option(help="The cluster's dashboard, http://HOST:8265.")] = "http://127.0.0.1:8265",
) -> None:
    """Hand the pipeline to a Ray cluster, follow its logs, and return its exit status."""
    from stillhouse.submit import submit as hand_over

    _recipe(recipe)
    raise typer.Exit(hand_over(recipe, run, address))


def _fail(sentence: str) -> NoReturn:
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(USER_ERROR_EXIT_CODE)


def _recipe(path: Path) -> Recipe:
    from stillhouse.recipe_file import load_recipe

    return load_recipe(path)


def _recipe_and_run(target: str, run: str | None) -> tuple[Recipe, Run]:
    """A recipe's file with its run, or a run with the recipe that it was begun with."""
    from stillhouse.run import Run

    if Path(target).suffix in {".yaml", ".yml"}:
        recipe = _recipe(Path(target))
        return recipe, Run.open(run or f"runs/{recipe.name}")
    opened = Run.open(target)
    return opened.recipe(), opened


def _job(step: str, recipe: Path, run: str | None) -> None:
    target = run or f"runs/{_recipe(recipe).name}"
    _start(f"ray_jobs.{step}", ["--recipe", str(recipe), "--run", target])


def _start(module: str, words: list[str]) -> NoReturn:
    """Run a module as a process of its own and end with its exit status.

    Ctrl-C reaches it by itself, being in the same process group; SIGTERM is passed on. Either way its end is waited
    for.
    """
    process = subprocess.Popen([sys.executable, "-m", module, *words])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: process.send_signal(signal.SIGINT))
    sys.exit(process.wait())


if __name__ == "__main__":
    main()
