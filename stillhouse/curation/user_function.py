"""The user's own function: found by `module:function` or `path/file.py:function`, loaded, and known by its source."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from stillhouse.errors import UserError


def load(spec: str) -> Callable[[dict[str, Any]], Any]:
    """The function. Its file's folder joins the end of the import path, so that it may import what lies beside it.

    Raises:
        UserError: it cannot be found or imported, is no function, or cannot be called with a record alone.
    """
    name, function = spec.rsplit(":", 1)
    try:
        path = file_of(name)
        module = importlib.import_module(name) if path is None else _from_file(path)
    except (Exception, SystemExit) as error:  # a script may end itself where it is imported
        raise UserError(_where(spec, f"{type(error).__name__}: {' '.join(str(error).split())}")) from error
    found = getattr(module, function, None)
    if not callable(found):
        raise UserError(_where(spec, f"{name} has no function {function!r}"))
    _require_one_argument(found, spec)
    return found  # type: ignore[no-any-return]


def fingerprint(spec: str) -> str:
    """sha256 of the function's name and its source file; not of what that imports. Raises `UserError` without one."""
    name, function = spec.rsplit(":", 1)
    path = file_of(name)
    if path is None:
        try:
            found = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            found = None
        if found is None or found.origin is None or not Path(found.origin).is_file():
            raise UserError(_where(spec, f"{name} is neither a file here nor an installed module"))
        path = Path(found.origin)
    if not path.is_file():
        raise UserError(_where(spec, f"{path} does not exist"))
    return hashlib.sha256(f"{function}\n".encode() + path.read_bytes()).hexdigest()


def anchored(spec: str, folder: Path) -> str:
    """The same function by the absolute path of its file, if that lies in `folder`; else `spec` as it is."""
    name, function = spec.rsplit(":", 1)
    path = file_of(name, folder)
    return f"{path.resolve()}:{function}" if path is not None and path.is_file() else spec


def file_of(name: str, folder: Path | None = None) -> Path | None:
    """The file that `my_filters.py` or `my_filters` names in a folder, by default the working directory; None for a
    module that is not there."""
    folder = folder or Path.cwd()
    if name.endswith(".py"):
        return folder / Path(name).expanduser()
    path = folder / f"{name.replace('.', '/')}.py"
    return path if path.is_file() else None


def _from_file(path: Path) -> ModuleType:
    # A name of its own: the file may be called like a library.
    name = f"_curation_filter_{path.stem}"
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise ImportError(f"{path} is no Python file")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    found.loader.exec_module(module)
    return module


def _require_one_argument(found: Callable[..., Any], spec: str) -> None:
    try:
        signature = inspect.signature(found)
    except ValueError:  # what is written in C may not tell
        return
    try:
        signature.bind({})
    except TypeError as error:
        name = spec.rsplit(":", 1)[1]
        raise UserError(_where(spec, f"{name}{signature} is called with one record, a dict: {error}")) from error


def _where(spec: str, problem: str) -> str:
    return f"curation.filters.python: {spec} cannot be loaded: {problem}"
