"""A capture's parts: what is asked, what is kept, what is asked again, and what becomes of failures.

The teachers are scripted and asked in this process; `test_capture_faults.py` has the real job and its kills.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import pyarrow
import pytest
from scripted_teacher import ScriptedTeacher, ask_here

from ray_jobs.capture import job, worker
from ray_jobs.capture.job import capture
from ray_jobs.capture.plan import WORK, make_plan, planned
from ray_jobs.capture.teacher import Answer, Question
from ray_jobs.capture.worker import CaptureWorker, final_key
from stillhouse.data import Records
from stillhouse.errors import StorageError, UserError
from stillhouse.recipe import Recipe
from stillhouse.run import Run
from stillhouse.signal.schema import description_of, read_table, write_table

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def changes(tmp_path: Path, make_tokenizer: Callable[..., Any]) -> dict[str, Any]:
    make_tokenizer("text").save_pretrained(tmp_path / "teacher")
    (tmp_path / "teacher" / "config.json").write_text('{"model_type": "llama"}')
    rows = [{"id": f"r{i}", "text": f"text {i}", "label": "positive" if i % 2 else "negative"} for i in range(8)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    places = {"data.path": str(tmp_path / "data.jsonl"), "teacher.model": str(tmp_path / "teacher")}
    return {**places, "capture.part_size": 3}


@pytest.fixture
def recipe(make_recipe: MakeRecipe, changes: dict[str, Any]) -> Recipe:
    return make_recipe(changes)


@pytest.fixture
def run(tmp_path: Path, recipe: Recipe) -> Run:
    made = Run.open(str(tmp_path / "run"))
    made.begin(recipe)
    return made


def table_of(run: Run, part: int) -> pyarrow.Table:
    return read_table(run.storage.read(final_key(part)), name="part")


def rows_of(run: Run) -> list[dict[str, Any]]:
    keys = run.storage.list("capture/parts")
    return [row for key in keys for row in read_table(run.storage.read(key), name=key).to_pylist()]


def test_a_capture_holds_every_record_once_and_says_what_it_is(
    run: Run, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_here(monkeypatch, {"teacher": ScriptedTeacher()})
    capture(recipe, run)
    rows = rows_of(run)
    assert [row["id"] for row in rows] == [f"r{i}" for i in range(8)]
    assert [row["index"] for row in rows] == list(range(8))
    assert [row["gold"] for row in rows][:2] == ["negative", "positive"]
    assert json.loads(rows[5]["fields"]) == {"text": "text 5"}
    assert {(row["sample"], row["teacher"], row["error"]) for row in rows} == {(0, "teacher", None)}
    told = description_of(table_of(run, 0))
    assert (told["engine"], told["mode"], told["k"], told["tokenizer_hash"]) == ("scripted 1", "topk", 20, "tokens")
    manifest = run.manifest("capture")
    assert manifest is not None
    counts = dict(manifest.counts)
    assert (counts.pop("last_start_tokens"), counts.pop("last_start_seconds") > 0) == (16, True)
    assert counts == {"records": 8, "failed": 0, "prompt_tokens": 16, "completion_tokens": 16}
    assert [entry.path for entry in manifest.files] == [f"parts/part-0000{i}.parquet" for i in range(3)]
    assert run.storage.list(WORK) == []


def test_a_restart_asks_only_for_what_is_missing(
    run: Run, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ask_here(monkeypatch, {"teacher": ScriptedTeacher()})
    capture(recipe, run)
    first = run.manifest("capture")
    run.storage.delete("capture/manifest.json")
    run.storage.delete(final_key(1))
    capture(recipe, run)
    second = run.manifest("capture")
    assert first is not None
    assert second is not None
    assert second.content_hash() == first.content_hash()
    assert asked == [0, 1, 2, 1]
    assert "goes on: 5 of 8 records are there" in capsys.readouterr().out


def test_a_start_counts_what_it_wrote_itself_and_in_what_time(
    run: Run, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if each look at the clock were a second after the last: two a part, when it is asked and when it is there."""
    teacher = ScriptedTeacher(fails={"r4"})
    ask_here(monkeypatch, {"teacher": teacher})
    seconds = itertools.count(1000.0)
    monkeypatch.setattr(worker, "time", SimpleNamespace(time=lambda: next(seconds)))

    def told() -> tuple[Any, ...]:
        manifest = run.manifest("capture")
        assert manifest is not None
        return tuple(
            manifest.counts.get(name) for name in ("completion_tokens", "last_start_tokens", "last_start_seconds")
        )

    with pytest.raises(UserError, match="1 of 8 records failed"):
        capture(recipe, run)
    teacher.fails = set()
    capture(recipe, run)
    # Part 1 alone was asked, and of it the one record that had failed.
    assert told() == (16, 2, 1.0)

    run.storage.delete("capture/manifest.json")
    for part in (0, 2):
        run.storage.delete(final_key(part))
    capture(recipe, run)
    assert told() == (16, 10, 3.0)

    run.storage.delete("capture/manifest.json")
    capture(recipe, run)
    assert told() == (16, None, None)  # nothing was asked


def test_what_is_only_scored_says_nothing_of_how_fast_a_teacher_writes(
    run: Run, make_recipe: MakeRecipe, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_here(monkeypatch, {"teacher": ScriptedTeacher()})
    capture(make_recipe({**changes, "capture.completions": "gold"}), run)
    manifest = run.manifest("capture")
    assert manifest is not None
    assert manifest.counts["completion_tokens"] == 16
    assert "last_start_tokens" not in manifest.counts


def damaged(whole: bytes) -> dict[str, bytes]:
    table = read_table(whole, name="part")
    return {
        "cut short": whole[:-20],
        "bits flipped": whole[:500] + b"\xff" * 8 + whole[508:],
        "empty": b"",
        "another schema": write_table(table.drop_columns(["token_logprobs"]), description_of(table)),
        "other inputs": write_table(table, {**description_of(table), "made_from": "others"}),
        "not ours": write_table(pyarrow.table({"a": [1]}), {}),
    }


@pytest.mark.parametrize("damage", ["cut short", "bits flipped", "empty", "another schema", "other inputs", "not ours"])
def test_a_part_that_cannot_be_used_is_made_again(
    run: Run, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    asked = ask_here(monkeypatch, {"teacher": ScriptedTeacher()})
    capture(recipe, run)
    before = rows_of(run)
    run.storage.delete("capture/manifest.json")
    run.storage.write(final_key(1), damaged(run.storage.read(final_key(1)))[damage])
    capture(recipe, run)
    assert asked == [0, 1, 2, 1]
    assert rows_of(run) == before


def test_what_does_not_belong_to_the_capture_goes(
    run: Run, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, make_recipe: MakeRecipe, changes: dict[str, Any]
) -> None:
    ask_here(monkeypatch, {"teacher": ScriptedTeacher()})
    capture(recipe, run)
    run.storage.write("capture/parts/notes.txt", b"x")
    larger = make_recipe({**changes, "capture.part_size": 8})
    capture(larger, run)
    assert run.storage.list("capture/parts") == [final_key(0)]
    assert [row["id"] for row in rows_of(run)] == [f"r{i}" for i in range(8)]


def test_a_part_that_cannot_be_read_now_is_kept(run: Run, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    ask_here(monkeypatch, {"teacher": ScriptedTeacher()})
    capture(recipe, run)
    before = run.storage.list("capture/parts")
    run.storage.delete("capture/manifest.json")
    read = run.storage.read

    def refuse(key: str) -> bytes:
        if key.startswith("capture/parts"):
            raise StorageError("access is denied")
        return read(key)

    with monkeypatch.context() as refusing:
        refusing.setattr(run.storage, "read", refuse)
        with pytest.raises(StorageError):
            capture(recipe, run)
    assert run.storage.list("capture/parts") == before


def test_failed_records_are_kept_with_their_reason_and_asked_again(
    run: Run, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = ScriptedTeacher(fails={"r4", "r7"})
    ask_here(monkeypatch, {"teacher": teacher})
    with pytest.raises(UserError, match=r"2 of 8 records failed \(25\.0%, and `capture\.max_failed` is 1\.0%\)"):
        capture(recipe, run)
    assert run.manifest("capture") is None
    failed = read_table(run.storage.read("capture/failed.parquet"), name="failed").to_pylist()
    assert [(row["id"], row["index"], row["error"]) for row in failed] == [
        ("r4", 4, "no answer to r4"),
        ("r7", 7, "no answer to r7"),
    ]
    assert json.loads(failed[0]["fields"]) == {"text": "text 4"}

    teacher.asked.clear()
    teacher.fails = {"r7"}
    with pytest.raises(UserError, match="1 of 8 records failed"):
        capture(recipe, run)
    assert [question.id for question in teacher.asked] == ["r4", "r7"]
    teacher.fails = set()
    capture(recipe, run)
    assert [row["id"] for row in rows_of(run)] == [f"r{i}" for i in range(8)]
    assert not run.storage.exists("capture/failed.parquet")


def test_a_share_of_failures_that_is_allowed_does_not_fail_the_job(
    run: Run, make_recipe: MakeRecipe, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_here(monkeypatch, {"teacher": ScriptedTeacher(fails={"r4"})})
    capture(make_recipe({**changes, "capture.max_failed": 0.125}), run)
    manifest = run.manifest("capture")
    assert manifest is not None
    assert (manifest.counts["records"], manifest.counts["failed"]) == (7, 1)
    assert "failed.parquet" in [entry.path for entry in manifest.files]


def test_samples_share_an_id_and_are_numbered(
    run: Run, make_recipe: MakeRecipe, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_here(monkeypatch, {"teacher": ScriptedTeacher(n=3)})
    task = {"task": {"kind": "text", "prompt": "{text}"}}
    capture(make_recipe({**changes, **task, "capture.n": 3}), run)
    assert [(row["id"], row["sample"]) for row in rows_of(run)] == [(f"r{i}", s) for i in range(8) for s in range(3)]


def test_gold_answers_are_scored(
    run: Run, make_recipe: MakeRecipe, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = ScriptedTeacher()
    ask_here(monkeypatch, {"teacher": teacher})
    capture(make_recipe({**changes, "capture.completions": "gold"}), run)
    assert [question.completion for question in teacher.asked][:2] == [" negative", " positive"]
    assert [row["completion"] for row in rows_of(run)][:2] == [" negative", " positive"]


def test_a_column_is_scored_and_a_row_without_one_fails(
    run: Run, tmp_path: Path, make_recipe: MakeRecipe, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"id": "a", "text": "x", "label": None, "said": "yes"},
        {"id": "b", "text": "y", "label": None, "said": None},
    ]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ask_here(monkeypatch, {"teacher": ScriptedTeacher()})
    said = {"capture.completions": "column", "data.completion": "said", "capture.max_failed": 0.5}
    capture(make_recipe({**changes, **said}), run)
    assert [(row["id"], row["completion"], row["error"]) for row in rows_of(run)] == [
        ("a", "yes", None),
        ("b", None, "there is no completion of the data to score"),
    ]


def test_an_interrupted_capture_is_not_finished_and_keeps_its_parts(
    run: Run, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_here(monkeypatch, {"teacher": ScriptedTeacher()})
    capture(recipe, run)
    answered = job._answered

    def breaks(*words: Any) -> Any:
        yield next(answered(*words))
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "_answered", breaks)
    changed = recipe.model_copy(update={"seed": 5})
    with pytest.raises(KeyboardInterrupt):
        capture(changed, run)
    assert run.manifest("capture") is None
    assert description_of(table_of(run, 0))["made_from"] != description_of(table_of(run, 1))["made_from"]


def test_a_worker_that_cannot_go_on_asks_nothing_more(
    run: Run, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = ScriptedTeacher()
    ask_here(monkeypatch, {"teacher": teacher})
    write = run.storage.write

    def full(key: str, data: bytes) -> None:
        if key == final_key(1):
            raise StorageError("no space left on the disk")
        write(key, data)

    monkeypatch.setattr(run.storage, "write", full)
    with pytest.raises(UserError, match="no space left on the disk"):
        capture(recipe, run)
    assert [question.id for question in teacher.asked] == [f"r{i}" for i in range(6)]
    assert run.storage.list("capture/parts") == [final_key(0)]


def test_a_part_is_written_while_the_next_one_is_answered_in_the_engines_own_thread(
    run: Run, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    answered = threading.Event()

    class Watched(ScriptedTeacher):
        def answer(self, part: int, questions: Sequence[Question]) -> list[Answer]:
            threads.append(threading.get_ident())
            if part == 1:
                answered.set()
            return super().answer(part, questions)

    ask_here(monkeypatch, {"teacher": Watched()})
    plan = make_plan(recipe, run, "these inputs")
    asker = CaptureWorker(recipe, run, plan.made_from, "teacher", None)
    write = run.storage.write

    def slow(key: str, data: bytes) -> None:
        # The first part's write ends only once the second part has been answered.
        assert key != final_key(0) or answered.wait(60)
        write(key, data)

    monkeypatch.setattr(run.storage, "write", slow)
    with ThreadPoolExecutor(2) as calls:
        done = list(calls.map(lambda part: asker({"part": np.array([part])}), range(3)))
    assert [each["error"] for each in done] == [[""]] * 3
    assert len(set(threads)) == 1
    assert threads[0] != threading.get_ident()
    assert [row["id"] for row in rows_of(run)] == [f"r{i}" for i in range(8)]


def test_a_users_mistake_leaves_a_finished_capture_alone(
    run: Run, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_here(monkeypatch, {"teacher": ScriptedTeacher()})
    capture(recipe, run)
    before = {key: run.storage.read(key) for key in run.storage.list()}
    for section, name, value in (("teacher", "model", "/nowhere/teacher"), ("data", "path", "/nowhere.jsonl")):
        part = getattr(recipe, section).model_copy(update={name: value})
        with pytest.raises(UserError, match="does not exist"):
            capture(recipe.model_copy(update={section: part, "seed": 9}), run)
    assert {key: run.storage.read(key) for key in run.storage.list()} == before


def test_the_plan_is_made_once_and_holds_the_records(run: Run, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(recipe, run, "these inputs")
    assert (plan.records, plan.parts, [plan.size(part) for part in range(3)]) == (8, 3, [3, 3, 2])
    assert [record for part in range(3) for record in planned(run, part)] == list(Records(recipe))

    def unread(_recipe: Recipe) -> NoReturn:
        raise AssertionError("the data is read again")

    with monkeypatch.context() as once:
        once.setattr("ray_jobs.capture.plan.Records", unread)
        assert make_plan(recipe, run, "these inputs") == plan
        with pytest.raises(AssertionError):
            make_plan(recipe, run, "other inputs")
    run.storage.write(f"{WORK}/plan/plan.json", b"{")
    assert make_plan(recipe, run, "these inputs") == plan
