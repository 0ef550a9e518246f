"""`stillhouse submit`: the pipeline through Ray's job submission API."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from stillhouse.curation import user_function
from stillhouse.errors import UserError
from stillhouse.recipe_file import dump_recipe, load_recipe

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_PACKAGES = ("stillhouse", "ray_jobs", "services")

AGENT_TIMEOUT_S = 60.0
"""Longest wait for a cluster to take the job, in seconds."""


def submit(recipe: Path, run: str, address: str) -> int:
    """Run `python -m ray_jobs.pipeline` on the cluster at `address`, printing its logs.

    The cluster gets this installation's own code, the recipe, the data if it is a local file, and the file of
    `curation.filters.python`; it must bring the libraries and reach the teacher and the run by the same names.

    Returns:
        0, or the job's exit status.

    Raises:
        UserError: the cluster cannot be reached, wants another token, or `run` is a local path that it could not share.
    """
    if "://" not in run and not Path(run).is_absolute():
        raise UserError(
            f"--run {run} is relative, which means nothing on the cluster: give s3://bucket/prefix or a shared path"
        )
    _use_token()
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobStatus, JobSubmissionClient

    try:
        client = JobSubmissionClient(address)
    except AuthenticationError as error:
        raise UserError(f"{address} wants a token that is not this one: set RAY_AUTH_TOKEN to the cluster's") from error
    except (ConnectionError, RuntimeError) as error:
        raise UserError(f"no Ray cluster answers at {address}: {str(error).splitlines()[0]}") from error
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _pack(recipe, folder)
        job = _submitted(
            client,
            f"python -m ray_jobs.pipeline --recipe recipe.yaml --run {shlex.quote(run)}",
            {"working_dir": str(folder)},
        )
        print(f"submitted {job} to {address}", flush=True)
    asyncio.run(_follow(client, job))
    info = client.get_job_info(job)
    print(f"{job}: {info.status.value.lower()}", flush=True)
    return 0 if info.status == JobStatus.SUCCEEDED else info.driver_exit_code or 1


def _submitted(client: JobSubmissionClient, entrypoint: str, runtime_env: dict[str, str]) -> str:
    """A cluster that has just begun takes jobs some seconds after its dashboard answers."""
    until = time.monotonic() + AGENT_TIMEOUT_S
    while True:
        try:
            return client.submit_job(entrypoint=entrypoint, runtime_env=runtime_env)
        except RuntimeError as error:
            if "No available agent" not in str(error):
                raise
            if time.monotonic() > until:
                told = f"the cluster takes no jobs: no agent of its head answered within {AGENT_TIMEOUT_S:g} s"
                raise UserError(told) from error
        time.sleep(1)


def _use_token() -> None:
    """Have Ray show a token where there is one: its job client does not look for one by itself, as `ray.init` does."""
    named = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    if named or (Path.home() / ".ray" / "auth_token").is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def _pack(recipe_file: Path, folder: Path) -> None:
    """Put the code, the recipe, a local data file and the user's own filter into the job's working folder."""
    source = Path(__file__).resolve().parent.parent
    for package in _PACKAGES:
        shutil.copytree(source / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    recipe = load_recipe(recipe_file)
    content = yaml.safe_load(dump_recipe(recipe))
    data = Path(recipe.data.path)
    if "://" not in recipe.data.path:
        if not data.is_file():
            raise UserError(f"data.path: {data} does not exist")
        shutil.copy(data, folder / data.name)
        content["data"]["path"] = data.name
    if spec := recipe.curation.filters.python:
        user_function.fingerprint(spec)  # raises where there is none
        name, function = spec.rsplit(":", 1)
        if (own := user_function.file_of(name)) is not None:
            # Apart from the code, so that no file of that name is replaced.
            target = folder / "filters" / own.name
            target.parent.mkdir()
            shutil.copy(own, target)
            content["curation"]["filters"]["python"] = f"filters/{own.name}:{function}"
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


async def _follow(client, job: str) -> None:  # type: ignore[no-untyped-def]
    async for lines in client.tail_job_logs(job):
        print(lines, end="", flush=True)
