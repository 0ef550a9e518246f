"""What a Serve application is built from, checked before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from stillhouse.errors import UserError

A = TypeVar("A", bound=BaseModel)


def parsed(model: type[A], args: Mapping[str, Any]) -> A:
    """The arguments of an application. Raises `UserError` that names those which are wrong."""
    try:
        return model.model_validate(args)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, found['loc']))}: {found['msg']}" for found in error.errors())
        raise UserError(f"the application's arguments are wrong: {problems}") from error
