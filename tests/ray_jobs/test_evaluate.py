"""The student's answers as the evaluation reads them from the engine's."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from calibration_made import THREE, recipe

from ray_jobs.evaluate import _captured, _prediction, _table
from stillhouse.confidence import Evidence
from stillhouse.errors import UserError
from stillhouse.run import Run
from stillhouse.signal.schema import Completion
from stillhouse.signal.sparse import SparseSignal
from stillhouse.timed import Timed, counted

ROW: dict[str, Any] = {
    "id": "r7",
    "fields": '{"text": "x"}',
    "gold": None,
    "answer": "a",
    "prompt_token_ids": [1, 2],
    "completion_token_ids": [3],
}
TASK = recipe(THREE).task
SIGNAL = SparseSignal.of([[5, 6], [0]], [[-0.5, -1.0], [0.0]])


def completion(logprobs: list[float] | None, *, text: str = "a", signal: SparseSignal | None = None) -> Completion:
    return Completion([1, 2], text, [5, 0], "stop", logprobs, signal)


def test_the_evidence_is_what_the_engine_told() -> None:
    found = _prediction(TASK, ROW, completion([-0.5, 0.0], signal=SIGNAL))
    assert found.evidence == Evidence.of([-0.5, 0.0], [[-0.5, -1.0], [0.0]])
    assert (found.student, found.right("teacher"), found.student_completion_tokens) == ("a", True, 2)
    assert _prediction(TASK, ROW, completion([-0.5, 0.0])).evidence == Evidence.of([-0.5, 0.0])


@pytest.mark.parametrize(("logprobs", "told"), [([-0.1, math.nan], "token 1 is NaN"), (None, "no logprobs")])
def test_a_broken_answer_stops_the_evaluation_with_its_record(logprobs: list[float] | None, told: str) -> None:
    with pytest.raises(UserError, match=f"answer to record r7 cannot be judged: .*{told}"):
        _prediction(TASK, ROW, completion(logprobs))


def test_predictions_keep_their_logprobs() -> None:
    told = _prediction(TASK, ROW, completion([-0.5, 0.0], signal=SIGNAL))
    silent = _prediction(TASK, ROW, completion([-0.5, 0.0], text="neither"))
    table = pyarrow.parquet.read_table(pyarrow.BufferReader(_table({"test": [told, silent]})))
    first, second = table.to_pylist()
    assert first["token_logprobs"] == [-0.5, 0.0]
    assert first["alternatives"] == [[-0.5, -1.0], [0.0]]
    assert (second["student"], second["token_logprobs"], second["alternatives"]) == (None, [-0.5, 0.0], None)
    assert (first["split"], first["id"], first["confidence"]) == ("test", "r7", 0.0)


def test_the_teachers_speed_is_that_of_the_capture_behind_the_dataset(tmp_path: Path) -> None:
    run, made = Run.open(str(tmp_path)), recipe(THREE)

    def commit(content: bytes, **counts: float) -> str:
        run.storage.write("capture/part", content)
        return run.commit("capture", recipe=made, inputs={}, counts=counts, began=0.0).content_hash()

    def captured(capture: str) -> Timed | None:
        return _captured(run, run.commit("dataset", recipe=made, inputs={"capture": capture}, began=0.0))

    assert captured("missing") is None
    older = commit(b"older", records=8, completion_tokens=16)
    assert captured(older) is None
    start = Timed(2.0, 16)
    newer = commit(b"newer", **counted(start))
    assert captured(newer) == start
    assert captured(older) is None
