"""`kill -9` at random moments, twenty times: the records are those of an undisturbed run, none lost, none twice.

The jobs, their Ray and their kills are real. The teacher is a scripted endpoint that answers in milliseconds, so that
there are many moments to kill at; `test_capture_engines.py` does the same once with vLLM.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from capture_process import CaptureProcess
from faulty_s3 import Fault, FaultyS3
from scripted_endpoint import ScriptedEndpoint, one_of

from ray_jobs.capture.worker import final_key
from stillhouse.recipe import Recipe
from stillhouse.recipe_file import dump_recipe
from stillhouse.run import Run
from stillhouse.signal.schema import read_table

pytestmark = pytest.mark.slow

KEY = "secret-key-7"
RECORDS = 180
PART = 3
MakeRecipe = Callable[..., Recipe]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[ScriptedEndpoint]:
    with ScriptedEndpoint(one_of(" positive", " negative"), delay_s=0.1, key=KEY) as scripted:
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
    return lambda: CaptureProcess(recipe, str(tmp_path / "run"), TEACHER_KEY=KEY)


@pytest.fixture(scope="module")
def undisturbed(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    code, output = CaptureProcess(recipe, str(run), TEACHER_KEY=KEY).wait()
    assert code == 0, output
    # Nothing but our own lines, and one of Ray's that nobody can turn off.
    said = [line for line in output.splitlines() if not line.startswith("[capture] ")]
    assert [line for line in said if "RAY_BACKEND_LOG_LEVEL" not in line] == []
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


def test_the_driver_and_the_raylet_are_killed_at_random_moments(
    start: Callable[[], CaptureProcess], tmp_path: Path, undisturbed: list[dict[str, Any]]
) -> None:
    run, moments = Run.open(str(tmp_path / "run")), random.Random(1)
    for killed in ("driver", "driver", "raylet"):
        process, after = start(), written(run) + moments.randint(0, 4)
        assert process.wait_until(lambda process=process, after=after: written(run) > after), process.wait()
        time.sleep(moments.random() / 4)
        if killed == "driver":
            process.kill()
        else:
            raylet = process.find("raylet/raylet")
            assert raylet is not None
            raylet.kill()
            code, _ = process.wait()
            process.end()
            assert code != 0
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
    while kills < 17:
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


FULL = """
set -e
mount -t tmpfs -o size=600k tmpfs {disk}
set +e; {capture} > {out}/first.log 2>&1; echo $? > {out}/first.code; set -e
ls {disk}/run/capture/parts > {out}/parts
mount -o remount,size=50m {disk}
{capture} > {out}/second.log 2>&1
cp -r {disk}/run {out}/run
"""


def test_a_full_disk_is_a_sentence_and_what_was_written_is_kept(
    recipe: Path, tmp_path: Path, undisturbed: list[dict[str, Any]]
) -> None:
    own = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*own, "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)], check=False).returncode:
        pytest.skip("this system lets nobody mount a small disk of their own")
    disk = tmp_path / "disk"
    disk.mkdir()
    capture = f"{sys.executable} -m ray_jobs.capture --recipe {recipe} --run {disk}/run"
    script = FULL.format(disk=disk, out=tmp_path, capture=capture)
    subprocess.run([*own, "sh", "-c", script], check=True, env={**os.environ, "TEACHER_KEY": KEY}, timeout=240)
    assert (tmp_path / "first.code").read_text().strip() == "2"
    told = (tmp_path / "first.log").read_text()
    assert f"error: no space left on the disk of {disk}/run" in told
    assert "Traceback" not in told
    assert (tmp_path / "parts").read_text().split()
    assert "goes on: " in (tmp_path / "second.log").read_text()
    assert rows_of(Run.open(str(tmp_path / "run"))) == undisturbed


def test_an_s3_that_fails_in_the_middle_is_a_sentence_and_what_was_written_is_kept(
    recipe: Path,
    s3: Callable[[], str],
    undisturbed: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    faulty = FaultyS3(os.environ["AWS_ENDPOINT_URL"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", faulty.address)
    uri = s3()
    puts = itertools.count()

    def refuse(method: str, path: str) -> Fault | None:
        return "refuse" if method == "PUT" and "/capture/parts/" in path and next(puts) >= 9 else None

    faulty.fault = refuse
    try:
        code, output = CaptureProcess(recipe, uri, TEACHER_KEY=KEY).wait()
        assert code == 2, output
        assert "cannot be used: access is denied" in output
        assert "Traceback" not in output
        assert 9 <= written(Run.open(uri)) < RECORDS // PART

        # Every 25th request fails from now on, which is overcome.
        requests = itertools.count()
        faulty.fault = lambda _method, _path: "500" if next(requests) % 25 == 24 else None
        code, output = CaptureProcess(recipe, uri, TEACHER_KEY=KEY).wait()
        assert code == 0, output
        faulty.fault = lambda _method, _path: None
        assert rows_of(Run.open(uri)) == undisturbed
    finally:
        faulty.close()
