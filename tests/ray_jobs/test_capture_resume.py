"""A capture that was cut off goes on with the parts that are whole and of the same inputs, and with no other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pyarrow
import pytest

from ray_jobs.capture import job
from ray_jobs.capture.job import _finished_parts, capture
from ray_jobs.capture.worker import part_key
from stillhouse.data import Record
from stillhouse.errors import StorageError, UserError
from stillhouse.recipe import Recipe
from stillhouse.run import Run
from stillhouse.signal.schema import Completion, PartDescription, read_table, to_row, write_part, write_table

MakeRecipe = Callable[..., Recipe]

DESCRIPTION = PartDescription("these inputs", "teacher", "tokens", "template", "vllm 0", "topk", 2, "float32")
PARTS = [[Record(f"id-{i}", i, {"text": f"text {i}"}, None) for i in range(start, start + 3)] for start in (0, 3, 6)]


def part(number: int, made_from: str = "these inputs", records: int = 3) -> bytes:
    completion = Completion([1, 2], " positive", [5, 0], "stop", [-0.5, 0.0], [[5], [0]], [[-0.5], [0.0]])
    rows = [to_row(record, completion) for record in PARTS[number][:records]]
    return write_part(rows, dataclasses.replace(DESCRIPTION, made_from=made_from))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = Run.open(str(tmp_path / "run"))
    for i in range(3):
        made.storage.write(part_key(i), part(i))
    return made


def test_whole_parts_are_counted(run: Run) -> None:
    run.storage.write(part_key(1), part(1, records=2))
    found = _finished_parts(run, PARTS, "these inputs")
    whole = {"records": 3, "too_long": 0, "prompt_tokens": 6, "completion_tokens": 6}
    assert found == {0: whole, 1: {"records": 2, "too_long": 1, "prompt_tokens": 4, "completion_tokens": 4}, 2: whole}


def without_a_column() -> bytes:
    table = read_table(part(1), name="part")
    return write_table(table.drop_columns(["top_logprobs"]), {"made_from": "these inputs"})


@pytest.mark.parametrize(
    "content",
    [
        part(1, made_from="other inputs"),
        part(1)[:-20],
        part(1)[:500] + b"\xff" * 8 + part(1)[508:],
        b"",
        without_a_column(),
        write_table(pyarrow.table({"a": [1]}), {}),
    ],
    ids=["other inputs", "cut short", "damaged", "empty", "another schema", "not ours"],
)
def test_a_part_that_cannot_be_reused_is_removed(run: Run, content: bytes) -> None:
    run.storage.write(part_key(1), content)
    assert set(_finished_parts(run, PARTS, "these inputs")) == {0, 2}
    assert run.storage.list("capture") == [part_key(0), part_key(2)]


def test_parts_beyond_the_work_are_removed(run: Run) -> None:
    run.storage.write("capture/parts/notes.txt", b"x")
    assert set(_finished_parts(run, PARTS[:2], "these inputs")) == {0, 1}
    assert run.storage.list("capture") == [part_key(0), part_key(1)]


def test_a_part_that_cannot_be_read_now_is_kept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_key: str) -> NoReturn:
        raise StorageError("access is denied")

    before = run.storage.list()
    monkeypatch.setattr(run.storage, "read", refuse)
    with pytest.raises(StorageError):
        _finished_parts(run, PARTS, "these inputs")
    assert run.storage.list() == before


@pytest.fixture
def recipe(tmp_path: Path, make_recipe: MakeRecipe, make_tokenizer: Callable[..., Any]) -> Recipe:
    make_tokenizer("text").save_pretrained(tmp_path / "teacher")
    (tmp_path / "teacher" / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "data.jsonl").write_text("".join(f'{{"text": "text {i}", "label": ""}}\n' for i in range(9)))
    places = {"data.path": str(tmp_path / "data.jsonl"), "teacher.model": str(tmp_path / "teacher")}
    return make_recipe({**places, "capture.part_size": 3})


def answer_all(run: Run, asked: list[list[int]]) -> Callable[..., Any]:
    """In place of the engines: writes the parts asked for."""

    def answered(_recipe: Recipe, _run: Run, parts: dict[int, list[Record]], made_from: str) -> Any:
        asked.append(sorted(parts))
        for number, records in parts.items():
            run.storage.write(part_key(number), part(number, made_from))
            yield {"part": number, "records": len(records), "too_long": 0, "prompt_tokens": 6, "completion_tokens": 6}

    return answered


def test_a_restart_asks_only_for_what_is_missing(
    run: Run, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[list[int]] = []
    monkeypatch.setattr(job, "_answered", answer_all(run, asked))
    capture(recipe, run)  # the parts in the run are of other inputs
    first = run.manifest("capture")
    assert first is not None
    assert first.counts == {"records": 9, "prompt_tokens": 18, "completion_tokens": 18}

    run.storage.delete("capture/manifest.json")
    run.storage.delete(part_key(1))
    capture(recipe, run)
    second = run.manifest("capture")
    assert second is not None
    assert second.content_hash() == first.content_hash()
    assert asked == [[0, 1, 2], [1]]
    assert "goes on: 6 of 9 records are there" in capsys.readouterr().out


def test_a_capture_that_breaks_is_not_finished_and_keeps_its_parts(
    run: Run, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "_answered", answer_all(run, []))
    capture(recipe, run)

    def breaks(*words: Any) -> Any:
        yield next(answer_all(run, [])(*words))
        raise UserError("the worker's disk is full")

    monkeypatch.setattr(job, "_answered", breaks)
    changed = recipe.model_copy(update={"seed": 5})
    with pytest.raises(UserError):
        capture(changed, run)
    assert run.manifest("capture") is None
    assert run.storage.list("capture") == [part_key(0)]


def test_the_manifest_goes_before_any_part(run: Run, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "_answered", answer_all(run, []))
    capture(recipe, run)

    def interrupt(key: str) -> None:
        run_delete(key)
        if key.endswith(".parquet"):
            raise KeyboardInterrupt

    run_delete = run.storage.delete
    monkeypatch.setattr(run.storage, "delete", interrupt)
    with pytest.raises(KeyboardInterrupt):
        capture(recipe.model_copy(update={"seed": 5}), run)
    # Taken back to the first seed, the capture without a part must not pass for a finished one.
    assert run.manifest("capture") is None
    assert len(run.storage.list("capture")) == 2


def test_a_users_mistake_leaves_a_finished_capture_alone(
    run: Run, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "_answered", answer_all(run, []))
    capture(recipe, run)
    before = {key: run.storage.read(key) for key in run.storage.list()}
    for section, name, value in (("teacher", "model", "/nowhere/teacher"), ("data", "path", "/nowhere.jsonl")):
        broken = recipe.model_copy(
            update={section: getattr(recipe, section).model_copy(update={name: value}), "seed": 9}
        )
        with pytest.raises(UserError, match="does not exist"):
            capture(broken, run)
    assert {key: run.storage.read(key) for key in run.storage.list()} == before
