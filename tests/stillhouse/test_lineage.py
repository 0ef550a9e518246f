"""Changing something makes exactly the steps stale that depend on it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stillhouse import lineage
from stillhouse.errors import UserError
from stillhouse.recipe import Recipe
from stillhouse.run import STEPS, Run, steps_of

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Any]:
    """Data and two models on disk, as changes to the small recipe."""
    (tmp_path / "data.jsonl").write_text('{"text": "fine", "label": "positive"}\n')
    for name in ("teacher", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(f'{{"of": "{name}"}}')
    return {"data.path": str(tmp_path / "data.jsonl"), "teacher.model": str(tmp_path / "teacher")}


def finish(run: Run, recipe: Recipe) -> None:
    for step in steps_of(recipe):
        run.storage.write(f"{step}/content", step.encode())
        run.commit(step, recipe=recipe, inputs=lineage.inputs(step, recipe, run), began=time.monotonic())


@pytest.fixture
def run(tmp_path: Path, make_recipe: MakeRecipe, places: dict[str, Any]) -> Run:
    """A run with every step finished."""
    made = Run.open(str(tmp_path / "run"))
    finish(made, make_recipe(places))
    return made


def changed(run: Run, recipe: Recipe) -> set[str]:
    """The steps whose own inputs are others now."""
    return {step for step in steps_of(recipe) if run.status(step, lineage.inputs(step, recipe, run)).state == "stale"}


def _named(value: Any) -> str:
    """The same in every process, which a set's own order is not."""
    return str(sorted(value) if isinstance(value, set) else value)


@pytest.mark.parametrize(
    ("changes", "stale"),
    [
        ({}, set()),
        ({"seed": 1}, {"capture", "dataset", "student", "evaluation"}),
        ({"task.prompt": "{text}?"}, {"capture", "dataset", "evaluation"}),
        ({"data.limit": 1}, {"capture"}),
        ({"data.label": None}, {"capture"}),
        ({"teacher.engine.dtype": "float32"}, {"capture"}),
        ({"teacher.engine.max_model_len": 64}, {"capture"}),
        ({"teacher.engine.max_num_seqs": 1, "teacher.engine.cpus": 1, "teacher.engine.kv_cache_gb": 2}, set()),
        ({"capture.top_k": 5}, {"capture"}),
        ({"capture.part_size": 5}, {"capture"}),
        ({"capture.engines": {"min": 1, "max": 5}, "capture.max_failed": 0.5, "capture.budget": 3.0}, set()),
        ({"capture.mass": 0.99}, {"capture"}),
        ({"task.sampling.stop": ["\n"]}, {"capture", "dataset", "evaluation"}),
        ({"ensemble": {"combine": "majority", "members": [{"name": "b", "model": "org/b"}]}}, {"capture"}),
        ({"curation.test": 0.2}, {"dataset"}),
        ({"curation.near_duplicate_similarity": 0.7}, {"dataset"}),
        ({"curation.filters": {"length": {"max": 9}}}, {"dataset"}),
        ({"curation.filters": {"python": "json:dumps"}}, {"dataset"}),
        ({"student.epochs": 1}, {"student"}),
        ({"student.init.layers": 2}, {"student"}),
        ({"student.temperature": 1.0}, {"student"}),
        ({"student.checkpoint_every": 7, "student.device": "cuda"}, set()),
        ({"student.engine.dtype": "float32"}, {"evaluation"}),
        ({"student.engine.max_num_seqs": 1}, set()),
        ({"evaluation.alpha": 0.2}, {"evaluation"}),
        ({"prices.teacher_input": 2.0}, {"evaluation"}),
        ({"serving.port": 9000}, set()),
        ({"review": {"share": 0.2, "max_error": 0.05}}, set()),
    ],
    ids=lambda value: next(iter(value), "nothing") if isinstance(value, dict) else None,
)
def test_a_change_to_the_recipe(
    run: Run, make_recipe: MakeRecipe, places: dict[str, Any], changes: dict[str, Any], stale: set[str]
) -> None:
    assert changed(run, make_recipe({**places, **changes})) == stale


TUNED = {"teacher.tune": {"records": 40}}


@pytest.mark.parametrize(
    ("changes", "stale"),
    [
        ({}, set()),
        ({"teacher.tune": {"records": 41}}, {"teacher"}),
        ({"teacher.tune": {"records": 40, "learning_rate": 0.001}}, {"teacher"}),
        ({"teacher.tune": {"records": 40, "lora": {}}}, {"teacher"}),
        (
            {"teacher.tune": {"records": 40, "workers": 1, "micro_batch_size": 2, "gradient_checkpointing": True}},
            set(),
        ),
        ({"data.labels": {"1": "positive"}}, {"teacher", "capture"}),
        ({"task.prompt": "{text}?"}, {"teacher", "capture", "dataset", "evaluation"}),
        ({"seed": 1}, {"teacher", *STEPS}),
        ({"teacher.tune": None}, {"capture", "dataset", "student"}),
        ({"student.epochs": 1}, {"student"}),
    ],
    ids=_named,
)
def test_a_change_to_the_recipe_of_a_tuned_teacher(
    run: Run, make_recipe: MakeRecipe, places: dict[str, Any], changes: dict[str, Any], stale: set[str]
) -> None:
    finish(run, make_recipe({**places, **TUNED}))
    assert changed(run, make_recipe({**places, **TUNED, **changes})) == stale


def test_another_untuned_teacher_is_tuned_anew(
    run: Run, make_recipe: MakeRecipe, places: dict[str, Any], tmp_path: Path
) -> None:
    recipe = make_recipe({**places, **TUNED})
    finish(run, recipe)
    other = make_recipe({**places, **TUNED, "teacher.model": str(tmp_path / "other")})
    assert changed(run, other) == {"teacher"}
    told = [(status.step, status.state) for status in lineage.statuses(other, run)]
    assert told == [("teacher", "stale"), *((step, "stale") for step in STEPS)]


def test_a_teacher_that_is_tuned_anew(run: Run, make_recipe: MakeRecipe, places: dict[str, Any]) -> None:
    recipe = make_recipe({**places, **TUNED})
    finish(run, recipe)
    for content, stale in ((b"other", {"capture", "dataset", "student"}), (b"teacher", set())):
        run.storage.write("teacher/content", content)
        run.commit("teacher", recipe=recipe, inputs=lineage.inputs("teacher", recipe, run), began=time.monotonic())
        assert changed(run, recipe) == stale
    run.clear("teacher")
    assert changed(run, recipe) == {"capture", "dataset", "student"}
    assert [status.state for status in lineage.statuses(recipe, run)][:2] == ["missing", "stale"]


def test_other_content_of_the_data(run: Run, make_recipe: MakeRecipe, places: dict[str, Any]) -> None:
    with Path(places["data.path"]).open("a") as file:
        file.write('{"text": "dull", "label": "negative"}\n')
    assert changed(run, make_recipe(places)) == {"capture"}


def test_the_same_data_and_teacher_at_another_path(
    run: Run, make_recipe: MakeRecipe, places: dict[str, Any], tmp_path: Path
) -> None:
    moved = {
        "data.path": str(Path(places["data.path"]).rename(tmp_path / "moved.jsonl")),
        "teacher.model": str(Path(places["teacher.model"]).rename(tmp_path / "moved")),
    }
    assert changed(run, make_recipe(moved)) == set()


def test_another_teacher(run: Run, make_recipe: MakeRecipe, places: dict[str, Any], tmp_path: Path) -> None:
    assert changed(run, make_recipe({**places, "teacher.model": str(tmp_path / "other")})) == {"capture", "student"}


def test_a_pretrained_students_weights(run: Run, make_recipe: MakeRecipe, places: dict[str, Any]) -> None:
    other = Path(places["teacher.model"]).parent / "other"
    recipe = make_recipe({**places, "student.init": {"kind": "pretrained", "model": str(other)}})
    assert changed(run, recipe) == {"student"}
    finish(run, recipe)
    (other / "model.safetensors").write_bytes(b"weights")
    assert changed(run, recipe) == {"student"}


@pytest.mark.parametrize(
    ("step", "stale"),
    [
        ("capture", {"dataset"}),
        ("dataset", {"student", "evaluation"}),
        ("student", {"evaluation"}),
        ("evaluation", set()),
    ],
)
def test_an_earlier_step_made_again(
    run: Run, make_recipe: MakeRecipe, places: dict[str, Any], step: Any, stale: set[str]
) -> None:
    recipe = make_recipe(places)
    run.clear(step)
    assert changed(run, recipe) == stale
    run.storage.write(f"{step}/content", b"other")
    run.commit(step, recipe=recipe, inputs=lineage.inputs(step, recipe, run), began=time.monotonic())
    assert changed(run, recipe) == stale
    # With the same content as before, what was made from it is up to date again.
    run.storage.write(f"{step}/content", step.encode())
    run.commit(step, recipe=recipe, inputs=lineage.inputs(step, recipe, run), began=time.monotonic())
    assert changed(run, recipe) == set()


def test_statuses_follow_the_chain(run: Run, make_recipe: MakeRecipe, places: dict[str, Any]) -> None:
    def told(recipe: Recipe) -> list[tuple[str, str]]:
        return [(status.state, status.why) for status in lineage.statuses(recipe, run)]

    recipe = make_recipe(places)
    assert told(recipe) == [("done", "")] * 4
    assert told(make_recipe({**places, "curation.test": 0.2, "prices.teacher_input": 2.0})) == [
        ("done", ""),
        ("stale", "changed since: curation"),
        ("stale", "made from an older dataset"),
        ("stale", "changed since: prices"),
    ]
    run.storage.delete("student/manifest.json")
    assert told(recipe) == [("done", ""), ("done", ""), ("partial", ""), ("stale", "changed since: student")]
    run.clear("capture")
    assert told(recipe)[0] == ("missing", "")


def test_data_that_cannot_be_read(run: Run, make_recipe: MakeRecipe, places: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="does not exist"):
        lineage.inputs("capture", make_recipe({**places, "data.path": "/nowhere.jsonl"}), run)


def test_a_filter_of_the_users_own_is_known_by_its_source(
    tmp_path: Path, run: Run, make_recipe: MakeRecipe, places: dict[str, Any]
) -> None:
    def using(path: Path) -> Recipe:
        return make_recipe({**places, "curation.filters": {"python": f"{path}:keep"}})

    own, elsewhere = tmp_path / "own.py", tmp_path / "elsewhere.py"
    own.write_text("def keep(record):\n    return True\n")
    finish(run, using(own))
    elsewhere.write_text(own.read_text())
    assert changed(run, using(elsewhere)) == set()
    own.write_text("def keep(record):\n    return False\n")
    assert changed(run, using(own)) == {"dataset"}
    with pytest.raises(UserError, match=r"cannot be loaded: .*gone\.py does not exist"):
        changed(run, using(tmp_path / "gone.py"))
