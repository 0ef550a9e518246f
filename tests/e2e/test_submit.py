"""The pipeline, handed to a real Ray cluster, with its run on a real S3 server."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stillhouse.lineage import statuses
from stillhouse.policy import Policy
from stillhouse.recipe_file import load_recipe
from stillhouse.run import STEPS, Run

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("engines")]


def _submit(recipe: Path, run: str, cluster: Any) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "stillhouse.cli",
        "submit",
        str(recipe),
        "--run",
        run,
        "--address",
        cluster.address,
    ]
    return subprocess.run(command, env=cluster.environment, capture_output=True, text=True, timeout=800, check=False)


def _submit_by_ray(recipe: Path, run: str, cluster: Any) -> subprocess.CompletedProcess[str]:
    """The plain form of the README, with the recipe's own folder for a working directory."""
    ray = str(Path(sys.executable).parent / "ray")
    job = ["python", "-m", "ray_jobs.pipeline", "--recipe", recipe.name, "--run", run]
    command = [ray, "job", "submit", "--address", cluster.address, "--working-dir", str(recipe.parent), "--", *job]
    return subprocess.run(command, env=cluster.environment, capture_output=True, text=True, timeout=800, check=False)


def test_a_wrong_token_is_one_sentence(small_recipe: Path, cluster: Any) -> None:
    stranger = dataclasses.replace(cluster, environment=cluster.environment | {"RAY_AUTH_TOKEN": "0" * 64})

    refused = _submit(small_recipe, "s3://stillhouse/never", stranger)

    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "wants a token that is not this one" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_submitted_pipeline_makes_a_whole_run_on_s3(small_recipe: Path, cluster: Any, s3: Callable[[], str]) -> None:
    run = Run.open(s3())

    first = _submit(small_recipe, run.uri, cluster)

    assert first.returncode == 0, first.stdout + first.stderr
    assert "[capture]" in first.stdout, "the job's logs are followed"
    manifests = {step: run.manifest(step) for step in STEPS}
    assert all(manifests.values())
    capture = manifests["capture"]
    assert capture is not None
    assert capture.counts["records"] == 160
    policy = Policy.load(run.storage.read("evaluation/policy.json"))
    student = manifests["student"]
    assert student is not None
    assert policy.student_hash == student.content_hash()
    report = json.loads(run.storage.read("evaluation/report.json"))
    assert report["quality"]["teacher"]["n"] == report["test_n"] > 0
    assert [status.state for status in statuses(load_recipe(small_recipe), run)] == ["done"] * 4

    again = _submit_by_ray(small_recipe, run.uri, cluster)

    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.count("up to date, skipped") == 4
    assert run.manifest("student") == student

    other = small_recipe.with_name("other.yaml")
    other.write_text(small_recipe.read_text().replace("name: movie-reviews", "name: other"))
    refused = _submit(other, run.uri, cluster)

    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "was made by the recipe 'movie-reviews', not by 'other'" in refused.stdout
    assert "Traceback" not in refused.stdout + refused.stderr
    assert run.manifest("student") == student, "finished artifacts are untouched"
