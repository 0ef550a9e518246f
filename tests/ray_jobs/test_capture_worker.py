"""The capture's worker with a scripted engine: what it leaves out, what it writes, what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ray_jobs.capture import worker
from ray_jobs.capture.worker import CaptureWorker, pack, part_key
from stillhouse.data import Record
from stillhouse.errors import StorageError
from stillhouse.recipe import Recipe
from stillhouse.run import Run
from stillhouse.signal.alignment import template_hash, tokenizer_hash
from stillhouse.signal.schema import Completion, description_of, read_table
from stillhouse.signal.sparse import SparseSignal

RECORDS = [Record("a", 0, {"text": "good"}, "positive"), Record("b", 1, {"text": "good " * 50}, None)]


def scripted_engine(_model: str, engine: Any, _task: Any, *, top_k: int) -> Any:
    """Answers every prompt with one token."""

    def complete(prompts: Sequence[Sequence[int]]) -> list[Completion]:
        signal = SparseSignal.of([[2, 3]], [[-0.5, -1.0]])
        return [Completion(list(ids), " positive", [2], "stop", [-0.5], signal) for ids in prompts]

    return SimpleNamespace(version="0", dtype="float32", max_model_len=engine.max_model_len, complete=complete)


@pytest.fixture
def capture_worker(
    tmp_path: Path,
    make_recipe: Callable[..., Recipe],
    make_tokenizer: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> CaptureWorker:
    make_tokenizer("good Review Sentiment :").save_pretrained(tmp_path / "teacher")
    (tmp_path / "teacher" / "config.json").write_text('{"model_type": "llama"}')
    monkeypatch.setattr(worker, "BatchEngine", scripted_engine)
    recipe = make_recipe({"teacher.model": str(tmp_path / "teacher"), "teacher.engine.max_model_len": 16})
    return CaptureWorker(recipe, Run.open(str(tmp_path / "run")), "these inputs")


def batch(part: int, records: list[Record]) -> dict[str, np.ndarray]:
    return {name: np.array([value]) for name, value in pack(part, records).items()}


def test_writes_what_fits_and_counts_the_rest(capture_worker: CaptureWorker) -> None:
    done = capture_worker(batch(4, RECORDS))
    assert done == {
        "part": [4],
        "error": [""],
        "records": [1],
        "too_long": [1],
        "prompt_tokens": [5],
        "completion_tokens": [1],
    }
    table = read_table(capture_worker.run.storage.read(part_key(4)), name="part")
    (row,) = table.to_pylist()
    assert (row["id"], row["gold"], row["prompt_token_ids"]) == ("a", "positive", [3, 5, 2, 4, 5])
    told = description_of(table)
    assert (told["made_from"], told["engine"], told["mode"], told["k"]) == ("these inputs", "vllm 0", "topk", 20)
    assert told["tokenizer_hash"] == tokenizer_hash(capture_worker.tokenizer)
    assert told["template_hash"] == template_hash(capture_worker.tokenizer)


def test_a_part_without_a_fitting_prompt_is_written_all_the_same(capture_worker: CaptureWorker) -> None:
    assert capture_worker(batch(0, RECORDS[1:]))["records"] == [0]
    assert read_table(capture_worker.run.storage.read(part_key(0)), name="part").num_rows == 0


def test_a_full_disk_goes_back_as_a_sentence(capture_worker: CaptureWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_key: str, _data: bytes) -> None:
        raise StorageError("no space left on the disk")

    monkeypatch.setattr(capture_worker.run.storage, "write", full)
    done = capture_worker(batch(4, RECORDS))
    assert done["error"] == ["no space left on the disk"]
    assert done["records"] == [0]
