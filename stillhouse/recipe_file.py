"""Reading a recipe's YAML: all of its problems at once, each with its path, and back to YAML."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from stillhouse.curation.user_function import anchored
from stillhouse.errors import UserError
from stillhouse.recipe import Disagreement, Recipe, section_problems


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe file.

    A relative `data.path`, `teacher.model` or `student.init.model` that exists beside the recipe is made absolute, and
    so is the file of `curation.filters.python`: the recipe means the same from every working directory.

    Raises:
        UserError: the file cannot be read, is not YAML, or breaks the models; with every problem and its path.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"the recipe {path} does not exist") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the recipe {path} cannot be read: {error}") from error
    return parse_recipe(text, source=str(path), folder=path.resolve().parent)


def parse_recipe(text: str, *, source: str, folder: Path | None = None) -> Recipe:
    """Read a recipe from YAML text; `source` names it in errors, `folder` is where its relative paths start.

    Raises:
        UserError: as `load_recipe`.
    """
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"the recipe {source} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise UserError(f"the recipe {source} must be a mapping with `name`, `task`, `data` and `teacher`")
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        problems = _problems(error, raw)
        lines = "\n".join(f"  {problem}" for problem in problems)
        count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise UserError(f"the recipe {source} has {count}:\n{lines}") from error
    return _anchor(recipe, folder) if folder else recipe


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML, every default spelled out, so that a run says all that it was made from."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _anchor(recipe: Recipe, folder: Path) -> Recipe:
    def absolute(value: str | None) -> str | None:
        if value is None or "://" in value or Path(value).is_absolute() or not (folder / value).exists():
            return value
        return str((folder / value).resolve())

    data_path = recipe.data.path
    if "://" not in data_path:
        data_path = str((folder / Path(data_path).expanduser()).resolve())
    init = recipe.student.init.model_copy(update={"model": absolute(recipe.student.init.model)})
    filters = recipe.curation.filters
    if filters.python is not None:
        filters = filters.model_copy(update={"python": anchored(filters.python, folder)})
    return recipe.model_copy(
        update={
            "data": recipe.data.model_copy(update={"path": data_path}),
            "teacher": recipe.teacher.model_copy(update={"model": absolute(recipe.teacher.model)}),
            "curation": recipe.curation.model_copy(update={"filters": filters}),
            "student": recipe.student.model_copy(update={"init": init}),
        }
    )


def _problems(error: ValidationError, raw: dict[str, Any]) -> list[str]:
    """One line a problem: where in the YAML, and what is wrong."""
    lines = []
    if all(problem["loc"] for problem in error.errors()):
        # Pydantic compares the sections only once each is right: compare those that are.
        found = section_problems({name: _alone(name, raw) for name in Recipe.model_fields})
        lines += [f"recipe: {problem}" for problem in found]
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"]) or "recipe"
        if problem["type"] == "extra_forbidden":
            *parent, key = problem["loc"]
            near = difflib.get_close_matches(str(key), _known_keys(parent), n=1, cutoff=0.5)
            hint = f"; did you mean `{near[0]}`?" if near else ""
            lines.append(f"{where}: unknown key{hint}")
        elif problem["type"] == "missing":
            lines.append(f"{where}: required, but not given")
        elif isinstance(cause := problem.get("ctx", {}).get("error"), Disagreement):
            lines += [f"{where}: {found}" for found in cause.problems]
        else:
            message = problem["msg"]
            given = problem["input"]
            shown = f" (got {given!r})" if isinstance(given, (str, int, float, bool)) else ""
            lines.append(f"{where}: {message[0].lower()}{message[1:]}{shown}")
    return lines


def _alone(section: str, raw: dict[str, Any]) -> Any:
    """A section of the recipe that is right by itself; None for one that is not."""
    model = model_in(Recipe.model_fields[section].annotation)
    if model is None or (section not in raw and Recipe.model_fields[section].default is None):
        return None
    try:
        return model.model_validate(raw.get(section, {}))
    except ValidationError:
        return None


def _known_keys(path: list[str | int]) -> list[str]:
    """The keys that the model at `path` of the recipe knows."""
    model: type[BaseModel] | None = Recipe
    for part in path:
        if isinstance(part, int) or model is None:
            continue
        field = model.model_fields.get(part)
        model = model_in(field.annotation) if field else None
    return list(model.model_fields) if model else []


def model_in(annotation: Any) -> type[BaseModel] | None:
    """The first pydantic model that an annotation such as `tuple[Message, ...] | None` names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := model_in(part))), None)
