"""The words that commands share, and what they name: a recipe's file, and a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from stillhouse.recipe import Recipe
    from stillhouse.run import Run

RecipeArgument = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe's YAML file.")]
RunOption = Annotated[
    str | None,
    typer.Option("--run", metavar="URI", help="The run: a folder, or s3://bucket/prefix. Default: runs/NAME."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]

console = Console(highlight=False)


def read_recipe(path: Path) -> Recipe:
    """The recipe in a file. Raises `UserError` for one that is wrong."""
    from stillhouse.recipe_file import load_recipe

    return load_recipe(path)


def run_of(recipe: Recipe, run: str | None) -> str:
    """Where a recipe's run lies: what `--run` says, or runs/NAME."""
    return run or f"runs/{recipe.name}"


def is_recipe(target: str) -> bool:
    """Whether RUN|RECIPE names a recipe's file."""
    return Path(target).suffix in {".yaml", ".yml"}


def recipe_and_run(target: str, run: str | None) -> tuple[Recipe, Run]:
    """A recipe's file with its run, or a run with the recipe that it was begun with."""
    from stillhouse.run import Run

    if is_recipe(target):
        recipe = read_recipe(Path(target))
        return recipe, Run.open(run_of(recipe, run))
    opened = Run.open(target)
    return opened.recipe(), opened
