"""`pkg://package/file`: a file that an installed Python package carries, without importing the package."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from stillhouse.errors import UserError

SCHEME = "pkg://"


def package_file(uri: str) -> Path:
    """The path of a `pkg://package/file`.

    Raises:
        UserError: the package is not installed, or does not hold the file.
    """
    package, _, inside = uri.removeprefix(SCHEME).partition("/")
    # Imported by nobody: a package that carries a file may need libraries that are not installed.
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"{uri} needs the Python package {package!r}, which is not installed")
    path = Path(next(iter(spec.submodule_search_locations))) / inside
    if not inside or ".." in PurePosixPath(inside).parts or not path.is_file():
        raise UserError(f"{uri}: the package {package!r} holds no file {inside!r}")
    return path
