"""`stillhouse`: the commands, each in a module by its noun.

They start the jobs by name, as a cluster does, so that a laptop and a cluster run one path.
"""

from __future__ import annotations

import sys

import typer

from stillhouse.cli import runs, serving, steps
from stillhouse.errors import USER_ERROR_EXIT_CODE, UserError

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Distil a large language model into a small student, and serve it with the teacher to fall back on.",
)
# In the order in which `stillhouse --help` tells them.
for command in (
    steps.check,
    steps.tune,
    steps.capture,
    steps.curate,
    steps.train,
    steps.evaluate,
    steps.run,
    serving.serve,
    serving.teacher,
    runs.status,
    runs.cost,
    runs.compare,
    runs.export,
    serving.review,
    steps.submit,
):
    app.command()(command)


def main() -> None:
    """The console script: a user's mistake is one sentence and exit status 2."""
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USER_ERROR_EXIT_CODE)
