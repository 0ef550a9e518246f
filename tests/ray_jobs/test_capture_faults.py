"""`kill -9` at random moments: the records at the end are those of an undisturbed run, none lost, none twice.

The jobs, their Ray and their kills are real. The teacher is a scripted endpoint that answers in milliseconds, so that
there are many moments to kill at; `test_capture_engines.py` does the same once with vLLM.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from capture_process import CaptureProcess
from scripted_endpoint import ScriptedEndpoint, one_of

from ray_jobs.capture.worker import final_key
from stillhouse.recipe import Recipe
from stillhouse.recipe_file import dump_recipe
from stillhouse.run import Run
from stillhouse.signal.schema import read_table

pytestmark = pytest.mark.slow

RECORDS = 300
PART = 3
MakeRecipe = Callable[..., Recipe]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[ScriptedEndpoint]:
    with ScriptedEndpoint(one_of(" positive", " negative"), delay_s=0.1, key="secret-key-7") as scripted:
        yield scripted


@pytest.fixture(scope="module")
def recipe(
    tmp_path_factory: pytest.TempPathFactory,
    endpoint: ScriptedEndpoint,
    make_recipe: MakeRecipe,
    make_tokenizer: Callable[..., Any],
) -> Path:
    folder = tmp_path_factory.mktemp("capture")
    make_tokenizer("Review Sentiment : film positive negative").save_pretrained(folder / "student")
    (folder / "student" / "config.json").write_text('{"model_type": "llama"}')
    rows = [{"id": f"r{i}", "text": f"film {i}", "label": "positive"} for i in range(RECORDS)]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = make_recipe(
        {
            "data.path": str(folder / "data.jsonl"),
            "teacher": {"model": "teacher", "url": endpoint.url, "max_concurrency": 3, "api_key_env": "TEACHER_KEY"},
            "capture": {"mode": "text", "part_size": PART, "engines": {"min": 2, "max": 2}},
            "student": {"init": {"kind": "pretrained", "model": str(folder / "student")}, "kd_weight": 0},
        }
    )
    path = folder / "recipe.yaml"
    path.write_text(dump_recipe(made))
    return path


@pytest.fixture
def start(recipe: Path, tmp_path: Path) -> Callable[[], CaptureProcess]:
    return lambda: CaptureProcess(recipe, str(tmp_path / "run"), TEACHER_KEY="secret-key-7")


@pytest.fixture(scope="module")
def undisturbed(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    code, output = CaptureProcess(recipe, str(run), TEACHER_KEY="secret-key-7").wait()
    assert code == 0, output
    rows = rows_of(Run.open(str(run)))
    assert [row["id"] for row in rows] == [f"r{i}" for i in range(RECORDS)]
    return rows


def rows_of(run: Run) -> list[dict[str, Any]]:
    """All rows of a finished capture."""
    assert run.manifest("capture") is not None
    keys = run.storage.list("capture/parts")
    assert keys == [final_key(part) for part in range(RECORDS // PART)]
    return [row for key in keys for row in read_table(run.storage.read(key), name=key).to_pylist()]


def written(run: Run) -> int:
    """Parts that are there."""
    with suppress(OSError):
        return len(run.storage.list("capture/parts"))
    return 0


def test_the_driver_is_killed_at_random_moments(
    start: Callable[[], CaptureProcess], tmp_path: Path, undisturbed: list[dict[str, Any]]
) -> None:
    run, moments = Run.open(str(tmp_path / "run")), random.Random(1)
    for _ in range(6):
        process, after = start(), written(run) + moments.randint(0, 4)
        assert process.wait_until(lambda process=process, after=after: written(run) > after), process.wait()
        time.sleep(moments.random() / 4)
        process.kill()
        assert run.manifest("capture") is None
    code, output = start().wait()
    assert code == 0, output
    assert "goes on: " in output
    assert rows_of(run) == undisturbed


def test_capture_actors_are_killed_at_random_moments(
    start: Callable[[], CaptureProcess],
    tmp_path: Path,
    undisturbed: list[dict[str, Any]],
    endpoint: ScriptedEndpoint,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # An actor takes seconds to come back: the work must last longer than the kills.
    monkeypatch.setattr(endpoint, "delay_s", 0.6)
    run, moments = Run.open(str(tmp_path / "run")), random.Random(2)
    process, kills = start(), 0
    while kills < 10:
        before = written(run)
        assert process.wait_until(lambda before=before: written(run) > before), process.wait()
        time.sleep(moments.random())
        if actor := process.find("CaptureWorker"):
            with suppress(psutil.NoSuchProcess):
                actor.kill()
                kills += 1
    monkeypatch.setattr(endpoint, "delay_s", 0.01)
    code, output = process.wait()
    assert code == 0, output
    assert rows_of(run) == undisturbed


def test_the_raylet_is_killed_at_random_moments(
    start: Callable[[], CaptureProcess], tmp_path: Path, undisturbed: list[dict[str, Any]]
) -> None:
    run, moments = Run.open(str(tmp_path / "run")), random.Random(3)
    for _ in range(4):
        process, after = start(), written(run) + moments.randint(0, 4)
        assert process.wait_until(lambda process=process, after=after: written(run) > after), process.wait()
        time.sleep(moments.random() / 4)
        raylet = process.find("raylet/raylet")
        assert raylet is not None
        raylet.kill()
        code, _ = process.wait()
        process.end()
        assert code != 0
        assert run.manifest("capture") is None
    code, output = start().wait()
    assert code == 0, output
    assert rows_of(run) == undisturbed
