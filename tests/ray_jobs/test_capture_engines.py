"""The capture with real vLLM engines: neither a second one nor kills change anything of what is captured."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml
from capture_process import CaptureProcess

from stillhouse.run import Run
from stillhouse.signal.schema import read_table, signals

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("engines")]

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "movie_reviews" / "recipe.yaml"


def recipe(folder: Path, engines: int) -> Path:
    content = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    content["data"]["limit"] = 160
    content["capture"] = {"top_k": 8, "part_size": 8, "engines": {"min": engines, "max": engines}}
    content["teacher"]["engine"] |= {"kv_cache_gb": 0.5}
    path = folder / f"engines-{engines}.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def captured(run: Run) -> tuple[list[dict[str, Any]], np.ndarray]:
    """The rows without their numbers, and the probabilities of every token's entries."""
    assert run.manifest("capture") is not None
    tables = [read_table(run.storage.read(key), name=key) for key in run.storage.list("capture/parts")]
    plain = ["id", "index", "sample", "fields", "gold", "prompt_token_ids", "completion", "completion_token_ids"]
    rows = [row for table in tables for row in table.select([*plain, "finish_reason", "error"]).to_pylist()]
    found = [signal for table in tables for signal in signals(table)]
    return rows, np.concatenate([np.exp(signal.logprobs) for signal in found if signal is not None])


def written(run: Run) -> int:
    with suppress(OSError):
        return len(run.storage.list("capture/parts"))
    return 0


def test_two_engines_that_are_killed_capture_what_one_does_undisturbed(tmp_path: Path) -> None:
    undisturbed = Run.open(str(tmp_path / "undisturbed"))
    code, output = CaptureProcess(recipe(tmp_path, engines=1), undisturbed.uri).wait()
    assert code == 0, output

    run = Run.open(str(tmp_path / "killed"))
    two = recipe(tmp_path, engines=2)
    process = CaptureProcess(two, run.uri)
    assert process.wait_until(lambda: written(run) > 0), process.wait()
    process.kill()
    left = written(run)
    assert left < 20

    process = CaptureProcess(two, run.uri)
    assert process.wait_until(lambda: written(run) > left), process.wait()
    actor = process.find("CaptureWorker")
    assert actor is not None
    with suppress(psutil.NoSuchProcess):
        actor.kill()
    time.sleep(0.5)
    code, output = process.wait()
    assert code == 0, output
    assert "goes on: " in output

    (expected, probabilities), (found, found_probabilities) = captured(undisturbed), captured(run)
    assert len(expected) == 160
    assert found == expected
    np.testing.assert_allclose(found_probabilities, probabilities, atol=0.01)
