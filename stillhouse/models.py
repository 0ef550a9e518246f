"""Finding a model's weights: a Hugging Face name, a folder, a run's model on S3, which is downloaded once, or a GGUF
file, which is converted once."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from stillhouse.errors import UserError
from stillhouse.recipe import Recipe
from stillhouse.resources import SCHEME, package_file
from stillhouse.run import Manifest, Run, Step, cache_folder, digest, file_sha256

_S3 = "s3://"
_OF_A_RUN: dict[str, Step] = {"teacher": "teacher", "student": "student"}
"""The folders of a run that hold a model."""

_HEAD_BYTES = 1 << 20
_WHOLE_BYTES = 32 << 20


def resolve(model: str) -> str:
    """What transformers and vLLM load: a folder's path, or a Hugging Face name as it is.

    A `.gguf` file (a path, or `pkg://package/file.gguf`) is dequantised into a float32 safetensors folder in the
    cache, once. A model that a run holds on S3 (`s3://bucket/prefix/teacher`) is downloaded into the cache, once.

    Raises:
        UserError: no such file or package, a file that cannot be converted, or one that is not what its manifest says.
    """
    if model.startswith(_S3):
        run, step, _ = _in_a_run(model)
        return str(run.fetch(step))
    path = package_file(model) if model.startswith(SCHEME) else Path(model).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise UserError(f"the model {model} does not exist")
        return str(_converted(path))
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"the model folder {model} holds no config.json")
        return str(path.resolve())
    if path.is_absolute() or model.startswith("."):
        raise UserError(f"the model folder {model} does not exist")
    return model


def is_dequantised(model: str) -> bool:
    """Whether the model's weights are dequantised from a GGUF file, so less exact than the original's."""
    return model.endswith(".gguf")


def fingerprint(model: str) -> str:
    """A hash that changes with the weights: of whole small files, and of the names, sizes and heads of large ones.

    A safetensors file's head holds the shapes and types of all its tensors and the start of the weights; reading all
    of a 70B model for each `status` would take minutes. A Hugging Face name stands for itself.
    """
    if model.startswith(_S3):
        return _in_a_run(model)[2].content_hash()
    path = package_file(model) if model.startswith(SCHEME) else Path(model).expanduser()
    if path.is_file():
        return _file_fingerprint(path)
    if path.is_dir():
        return digest([(file.name, _file_fingerprint(file)) for file in sorted(path.iterdir()) if file.is_file()])
    return digest(model)


def require(model: str) -> None:
    """See that a model is there, without loading any of it, or the libraries that would: they fill half a gigabyte.

    Raises:
        UserError: an unknown model.
    """
    if model.startswith(_S3):
        _in_a_run(model)
        return
    folder = resolve(model)
    from transformers.utils.hub import cached_file

    try:
        cached_file(folder, "config.json")
    except OSError as error:
        raise UserError(f"the model {model} cannot be loaded: {_first_line(error)}") from error


def token_source(recipe: Recipe) -> str:
    """The model whose tokenizer the capture's token ids belong to.

    That is the teacher; or the student, where text alone is stored and the student has a tokenizer of its own.
    """
    teacher, init = recipe.teacher, recipe.student.init
    if recipe.capture.mode == "text" and init.model is not None:
        return init.model
    return teacher.model if teacher.url is None else teacher.tokenizer or teacher.model


def load_tokenizer(model: str) -> Any:
    """The model's tokenizer. Raises `UserError` for an unknown model."""
    folder = resolve(model)
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # a damaged tokenizer.json ends in a KeyError, a TypeError or a plain Exception
        raise UserError(f"the model {model} cannot be loaded: {_first_line(error)}") from error


def _in_a_run(model: str) -> tuple[Run, Step, Manifest]:
    """The run on S3 that holds a model, and the step that made it. Raises `UserError` where there is none."""
    folder, _, name = model.rstrip("/").rpartition("/")
    if name not in _OF_A_RUN or not folder.removeprefix("s3:/"):
        raise UserError(
            f"the model {model} is no run's s3://bucket/prefix/teacher or student: download it, and name its folder"
        )
    run, step = Run.open(folder), _OF_A_RUN[name]
    manifest = run.manifest(step)
    if manifest is None:
        raise UserError(f"the model {model} does not exist: the run {run.uri} has no finished {step}")
    if not any(entry.path == "config.json" for entry in manifest.files):
        raise UserError(f"the model folder {model} holds no config.json")
    return run, step, manifest


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _file_fingerprint(path: Path) -> str:
    size = path.stat().st_size
    if size <= _WHOLE_BYTES:
        return file_sha256(path)
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        file.seek(-_HEAD_BYTES, os.SEEK_END)
        tail = file.read()
    return digest([size, head.hex(), tail.hex()])


def _converted(gguf: Path) -> Path:
    folder = cache_folder("models") / f"{gguf.stem}-{_file_fingerprint(gguf)[:12]}"
    if (folder / "config.json").is_file():
        return folder
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        try:
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        except (OSError, ValueError) as error:
            raise UserError(f"the model {gguf} cannot be converted: {_first_line(error)}") from error
        # The weights are plain float32 by now; the mark of their origin would keep them from being saved.
        model.hf_quantizer.remove_quantization_config(model)
        whole = Path(temporary) / "model"
        model.save_pretrained(whole)
        tokenizer.save_pretrained(whole)
        (whole / "source.json").write_text(json.dumps({"gguf": gguf.name, "sha256": file_sha256(gguf)}))
        try:
            whole.rename(folder)
        except OSError:  # another process was first
            if not (folder / "config.json").is_file():
                shutil.rmtree(whole, ignore_errors=True)
                raise
    return folder
