"""The whole capture against an endpoint: a real job, its workers, its account, and where the key goes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from endpoint_parts import KEY, MakeRecipe, at, byte_level_tokenizer
from scripted_endpoint import ScriptedEndpoint, one_of

from stillhouse.recipe_file import dump_recipe
from stillhouse.run import Run
from stillhouse.signal.schema import read_table, signals

pytestmark = pytest.mark.slow

RECORDS = 60


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    # Ray's sockets need a short path.
    folder = Path(tempfile.mkdtemp(prefix="sh-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def capture(
    tmp_path: Path, ray_folder: Path, make_recipe: MakeRecipe
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`python -m ray_jobs.capture`, as a user starts it."""
    rows = [{"id": f"r{i}", "text": f"film number {i}"} for i in range(RECORDS)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(endpoint: ScriptedEndpoint, **changes: Any) -> subprocess.CompletedProcess[str]:
        keys = at(endpoint.url, tmp_path / "tokenizer", data__path=str(tmp_path / "data.jsonl"), **changes)
        (tmp_path / "recipe.yaml").write_text(dump_recipe(make_recipe({**keys, "data.label": None})))
        words = ["--recipe", str(tmp_path / "recipe.yaml"), "--run", str(tmp_path / "run")]
        environment = {
            **os.environ,
            "TEACHER_KEY": KEY,
            "NO_PROXY": "127.0.0.1,localhost",
            "STILLHOUSE_RAY_TEMP_DIR": str(ray_folder),
        }
        return subprocess.run(
            [sys.executable, "-m", "ray_jobs.capture", *words],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


def test_a_budget_that_runs_out_and_is_raised_and_a_key_that_is_nowhere(
    capture: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, ray_folder: Path
) -> None:
    tokenizer = byte_level_tokenizer(tmp_path / "tokenizer")
    prices = {"prices__teacher_input": 0.0, "prices__teacher_output": 1e6}
    prices |= {"capture__part_size": 10, "capture__engines": {"min": 2, "max": 2}}
    with ScriptedEndpoint(one_of(" positive", " negative"), tokenizer=tokenizer, key=KEY) as endpoint:
        # A part may cost 160 tokens, and costs a few dozen at most.
        stopped = capture(endpoint, capture__budget=170.0, **prices)
        assert stopped.returncode == 2, (stopped.stdout, stopped.stderr)
        line = stopped.stderr.splitlines()[-1]
        assert "Traceback" not in stopped.stderr
        assert line.startswith("error: spent ")
        assert "of 170.00 USD" in line
        assert "raise `capture.budget` to go on" in line
        asked_before = len(endpoint.calls)
        done = capture(endpoint, capture__budget=10_000.0, **prices)
        assert done.returncode == 0, (done.stdout, done.stderr)
        asked = Counter(endpoint.prompts())
    assert 0 < asked_before < RECORDS
    assert set(asked.values()) == {1}, "nothing was asked twice"
    assert len(asked) == RECORDS
    run = Run.open(str(tmp_path / "run"))
    rows, found = [], []
    for name in run.storage.list("capture/parts"):
        table = read_table(run.storage.read(name), name=name)
        rows += table.to_pylist()
        found += signals(table)
    assert [row["id"] for row in rows] == [f"r{i}" for i in range(RECORDS)]
    assert all(
        signal is not None and len(signal) == len(row["completion_token_ids"])
        for signal, row in zip(found, rows, strict=True)
    )
    told = json.loads(run.storage.read("capture/ledger.json"))
    spent = sum(len(row["completion_token_ids"]) - 1 for row in rows)
    assert (told["cost"], told["unsettled"], told["completion_tokens"]) == (spent, 0, spent)

    written = [path for folder in (tmp_path, ray_folder) for path in folder.rglob("*") if path.is_file()]
    assert any("raylet" in path.name for path in written), "Ray's own logs are among them"
    for path in written:
        assert KEY.encode() not in path.read_bytes(), path
    for text in (stopped.stdout, stopped.stderr, done.stdout, done.stderr):
        assert KEY not in text
