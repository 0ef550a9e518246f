"""Several teachers, one capture: scripted teachers, asked in this process, and combined as the job does."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripted_teacher import IDENTITY, ScriptedTeacher, ask_here

from ray_jobs.capture import job
from ray_jobs.capture.combine import combined
from ray_jobs.capture.job import capture
from ray_jobs.capture.plan import WORK, Plan
from ray_jobs.capture.worker import final_key
from stillhouse.errors import UserError
from stillhouse.recipe import Recipe
from stillhouse.run import Run
from stillhouse.signal.schema import description_of, read_table, signals

MakeRecipe = Callable[..., Recipe]
Captured = Callable[..., list[dict[str, Any]]]


def member(name: str, folder: Path, **changes: Any) -> dict[str, Any]:
    return {"name": name, "model": str(folder / "teacher"), **changes}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.open(str(tmp_path / "run"))


@pytest.fixture
def captured(
    tmp_path: Path,
    run: Run,
    make_recipe: MakeRecipe,
    make_tokenizer: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> Captured:
    """The rows of a capture by scripted teachers."""
    make_tokenizer("text").save_pretrained(tmp_path / "teacher")
    (tmp_path / "teacher" / "config.json").write_text('{"model_type": "llama"}')
    rows = [{"id": f"r{i}", "text": f"text {i}", "label": "", "lang": "de" if i % 2 else "en"} for i in range(6)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def here(recipe: Recipe, run: Run, plan: Plan) -> None:
        for part in range(plan.parts):
            run.storage.write(final_key(part), combined(recipe, run, part))

    def of(teachers: dict[str, ScriptedTeacher], ensemble: dict[str, Any], **changes: Any) -> list[dict[str, Any]]:
        ask_here(monkeypatch, teachers)
        monkeypatch.setattr(job, "combine", here)
        places = {"data.path": str(tmp_path / "data.jsonl"), "teacher.model": str(tmp_path / "teacher")}
        capture(make_recipe({**places, "capture.part_size": 4, "ensemble": ensemble, **changes}), run)
        keys = run.storage.list("capture/parts")
        assert run.storage.list(WORK) == []
        return [row for key in keys for row in read_table(run.storage.read(key), name=key).to_pylist()]

    return of


def test_the_majority_answers_and_its_agreement_is_recorded(captured: Captured, tmp_path: Path, run: Run) -> None:
    teachers = {
        "teacher": ScriptedTeacher(says=" negative"),
        "b": ScriptedTeacher(says=" positive", fails={"r0", "r1"}),
        "c": ScriptedTeacher(says=" positive", fails={"r1"}),
    }
    members = [member("b", tmp_path), member("c", tmp_path, weight=1.5)]
    rows = captured(teachers, {"combine": "majority", "members": members})
    assert [row["id"] for row in rows] == [f"r{i}" for i in range(6)]
    # All three; then without b, whose weight nobody has; then the first teacher alone.
    assert (rows[2]["completion"], rows[2]["teacher"]) == (" positive", "c")
    assert rows[2]["agreement"] == pytest.approx(2.5 / 3.5)
    assert (rows[0]["completion"], rows[0]["agreement"]) == (" positive", pytest.approx(1.5 / 2.5))
    assert (rows[1]["completion"], rows[1]["teacher"], rows[1]["agreement"]) == (" negative", "teacher", 1.0)
    told = description_of(read_table(run.storage.read(final_key(0)), name="part"))
    assert told["model"].count(" + ") == 2


def test_a_record_that_every_teacher_failed_has_failed(captured: Captured, tmp_path: Path) -> None:
    teachers = {name: ScriptedTeacher(fails={"r3"}) for name in ("teacher", "b")}
    ensemble = {"combine": "majority", "members": [member("b", tmp_path)]}
    rows = captured(teachers, ensemble, **{"capture.max_failed": 0.2})
    assert rows[3]["error"] == "the teacher 'teacher': no answer to r3; the teacher 'b': no answer to r3"
    assert sum(row["error"] is not None for row in rows) == 1


def test_each_teacher_has_a_record(captured: Captured, tmp_path: Path) -> None:
    teachers = {"teacher": ScriptedTeacher(says="a"), "b": ScriptedTeacher(says="b")}
    task = {"task": {"kind": "text", "prompt": "{text}"}}
    rows = captured(teachers, {"combine": "each", "members": [member("b", tmp_path)]}, **task)
    assert [(row["id"], row["teacher"], row["completion"]) for row in rows] == [
        (f"r{i}", teacher, says) for i in range(6) for teacher, says in (("teacher", "a"), ("b", "b"))
    ]


def test_rows_are_routed_by_their_columns(captured: Captured, tmp_path: Path) -> None:
    teachers = {"teacher": ScriptedTeacher(), "german": ScriptedTeacher()}
    members = [member("german", tmp_path, when={"lang": "de"})]
    rows = captured(teachers, {"combine": "route", "members": members})
    assert [(row["id"], row["teacher"]) for row in rows] == [
        (f"r{i}", "german" if i % 2 else "teacher") for i in range(6)
    ]
    assert {question.id for question in teachers["german"].asked} == {"r1", "r3", "r5"}


def test_distributions_are_averaged_over_the_same_tokens(captured: Captured, tmp_path: Path, run: Run) -> None:
    teachers = {"teacher": ScriptedTeacher(says=" negative"), "b": ScriptedTeacher(says=" positive")}
    members = [member("b", tmp_path, weight=3)]
    rows = captured(teachers, {"combine": "mean", "members": members})
    assert {row["completion"] for row in rows} == {" negative"}
    assert [question.completion for question in teachers["b"].asked] == [[5, 0]] * 6
    # Both say the same of a question, so the mean is what each says.
    table = read_table(run.storage.read(final_key(0)), name="part")
    for row, signal in zip(table.to_pylist(), signals(table), strict=True):
        assert signal is not None
        assert np.exp(signal.at(0)[1]).max() == pytest.approx(np.exp(row["token_logprobs"][0]), abs=0.02)


def test_teachers_of_two_families_cannot_share_a_capture(captured: Captured, tmp_path: Path) -> None:
    teachers = {
        "teacher": ScriptedTeacher(),
        "b": ScriptedTeacher(identity=replace(IDENTITY, tokenizer_hash="other")),
    }
    with pytest.raises(UserError, match="the teacher 'b' has another tokenizer than the first one"):
        captured(teachers, {"combine": "majority", "members": [member("b", tmp_path)]})


@pytest.mark.parametrize(("combine", "tokens"), [("majority", 24), ("mean", 12)])
def test_the_teachers_that_write_are_timed_together(
    captured: Captured, tmp_path: Path, run: Run, combine: str, tokens: int
) -> None:
    """In a mean the second one scores what the first one wrote."""
    teachers = {"teacher": ScriptedTeacher(), "b": ScriptedTeacher()}
    captured(teachers, {"combine": combine, "members": [member("b", tmp_path)]})
    manifest = run.manifest("capture")
    assert manifest is not None
    assert manifest.counts["completion_tokens"] == 12
    assert manifest.counts["last_start_tokens"] == tokens
