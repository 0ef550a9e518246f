"""The recipe's reference, made from its models: `python -m stillhouse.reference > docs/recipe.md`."""

from __future__ import annotations

import re
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from stillhouse.recipe import Recipe
from stillhouse.recipe_file import model_in

_HEAD = """# The recipe

Every key of a recipe, with its default and its limits. Unknown keys are errors.
This page is made from the models by `python -m stillhouse.reference > docs/recipe.md`.
"""
_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def reference() -> str:
    """The page as Markdown."""
    sections: list[str] = []
    _describe(Recipe, "", sections)
    return _HEAD + "\n" + "\n".join(sections)


def _describe(model: type[BaseModel], path: str, sections: list[str]) -> None:
    title = f"`{path}`" if path else "The recipe"
    lines = [f"## {title}", "", f"{(model.__doc__ or '').strip().splitlines()[0]}", ""]
    lines += ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    nested: list[tuple[str, type[BaseModel]]] = []
    inherited = [name for name in model.model_fields if name not in model.__annotations__]
    for name in [*(name for name in model.model_fields if name not in inherited), *inherited]:
        field = model.model_fields[name]
        inner = model_in(field.annotation)
        if inner is not None:
            nested.append((f"{path}.{name}" if path else name, inner))
        lines.append(f"| `{name}` | {_type(field)} | {_default(field)} | {_cell(field.description or '')} |")
    sections.append("\n".join(lines) + "\n")
    for where, inner in nested:
        _describe(inner, where, sections)


def _type(field: FieldInfo) -> str:
    limits = [
        f"{sign} {value}"
        for name, sign in _SIGNS.items()
        for part in field.metadata
        if (value := getattr(part, name, None)) is not None
    ]
    return _cell(_named(field.annotation) + (f" ({', '.join(limits)})" if limits else ""))


def _named(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin is Annotated:
        return _named(parts[0])
    if origin in (Union, types.UnionType):
        return " or ".join(_named(part) for part in parts if part is not type(None))
    if origin is tuple:
        return f"list of {_named(parts[0])}"
    if origin is dict:
        return "mapping"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    name: str = annotation.__name__
    return {"NoneType": "null", "str": "text", "int": "whole number", "float": "number"}.get(name, name)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default is PydanticUndefined or field.default is None or field.default in ((), {}):
        return "–"
    if isinstance(field.default, tuple):
        return f"`[{', '.join(map(str, field.default))}]`"
    return f"`{field.default}`"


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


if __name__ == "__main__":
    print(reference(), end="")
