"""The recipe: what it takes, what it refuses, and how it says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from stillhouse.errors import UserError
from stillhouse.recipe import Recipe
from stillhouse.recipe_file import dump_recipe, load_recipe, parse_recipe

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").rglob("recipe*.yaml"))

MakeRecipe = Callable[..., Recipe]


def problems(make_recipe: MakeRecipe, changes: dict[str, Any]) -> list[str]:
    """The lines of the error, without the first."""
    with pytest.raises(UserError) as caught:
        make_recipe(changes)
    head, *lines = str(caught.value).splitlines()
    count = "a problem" if len(lines) == 1 else f"{len(lines)} problems"
    assert head == f"the recipe test has {count}:"
    return [line.strip() for line in lines]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.parent.name)
def test_examples_load_and_survive_a_dump(path: Path) -> None:
    recipe = load_recipe(path)
    assert parse_recipe(dump_recipe(recipe), source="dump") == recipe


def test_there_are_examples() -> None:
    assert EXAMPLES


def test_dump_spells_out_every_default(make_recipe: MakeRecipe) -> None:
    dumped = yaml.safe_load(dump_recipe(make_recipe()))
    assert dumped["student"]["temperature"] == 2.0
    assert dumped["student"]["init"] == {
        "kind": "teacher_layers",
        "layers": 6,
        "select": "even",
        "model": None,
        "config": {},
    }


def test_all_problems_are_told_at_once_with_their_places(make_recipe: MakeRecipe) -> None:
    changes = {
        "name": "Not A Name",
        "sed": 1,
        "task.choices": [" only"],
        "task.prompt": "no column",
        "teacher.engine.dtpye": "float32",
        "teacher.engine.kv_cache_gb": 0,
        "student.batch_size": 30,
        "student.kd_weight": 0,
        "student.ce_weight": 0,
        "data.label": None,
        "evaluation.against": "gold",
        "capture.top_k": "many",
    }
    told = problems(make_recipe, changes)
    expected = [
        ("name:", "got 'Not A Name'"),
        ("sed:", "unknown key; did you mean `seed`?"),
        ("task:", "`choices` needs at least two choices"),
        ("task:", "no `{column}`"),
        ("teacher.engine.dtpye:", "unknown key; did you mean `dtype`?"),
        ("teacher.engine.kv_cache_gb:", "greater than 0 (got 0)"),
        ("student:", "batch_size (30) must be a multiple of workers × micro_batch_size (2 × 8)"),
        ("student:", "must not both be zero"),
        ("recipe:", "`evaluation.against: gold` needs `data.label`"),
        ("capture.top_k:", "(got 'many')"),
    ]
    assert len(told) == len(expected)
    for where, what in expected:
        assert any(line.startswith(where) and what in line for line in told), (where, what)


def test_a_missing_section_and_a_missing_key_are_named() -> None:
    with pytest.raises(UserError) as caught:
        parse_recipe("name: x\ndata: {label: y}\nteacher: {model: m}\n", source="r.yaml")
    assert "task: required, but not given" in str(caught.value)
    assert "data.path: required, but not given" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("techer", "teacher"),
        ("student.learnin_rate", "learning_rate"),
        ("student.init.layer", "layers"),
        ("data.lable", "label"),
        ("task.messages", "content"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(make_recipe: MakeRecipe, key: str, near: str) -> None:
    changes: dict[str, Any] = {key: 1}
    where = key
    if key == "task.messages":
        changes = {"task.prompt": None, key: [{"role": "user", "content": "{text}", "contents": "x"}]}
        where = "task.messages.0.contents"
    assert f"{where}: unknown key; did you mean `{near}`?" in problems(make_recipe, changes)


def test_an_unknown_key_like_no_other_gets_no_hint(make_recipe: MakeRecipe) -> None:
    assert problems(make_recipe, {"zzz": 1}) == ["zzz: unknown key"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"task.choices": ["a", " a"]}, "task: `choices` must differ from each other, and none may be blank"),
        ({"task.choices": ["a", " "]}, "task: `choices` must differ from each other, and none may be blank"),
        ({"task.kind": "text"}, "task: `choices` goes with `kind: choices`, not with `kind: text`"),
        ({"task.kind": "json", "task.choices": []}, "task: `json_schema` goes with `kind: json`"),
        (
            {"task.kind": "json", "task.choices": [], "task.json_schema": {"type": "objekt"}},
            "task: `json_schema` is not a JSON schema: 'objekt' is not valid",
        ),
        ({"task.messages": [{"role": "user", "content": "{text}"}]}, "task: give either `prompt`"),
        ({"task.prompt": None}, "task: give either `prompt`"),
        ({"task.prompt": "{text"}, "task: the template '{text' is malformed"),
        ({"task.prompt": "{text:>{width}}"}, "task: `{text:>{width}}` is not a plain `{column}`"),
        ({"task.prompt": "{text!r}"}, "task: `{text!r}` is not a plain `{column}`"),
        ({"task.prompt": "{0}"}, "task: `{0}` is not a plain `{column}`"),
        ({"task.prompt": "{}"}, "task: `{}` is not a plain `{column}`"),
        ({"task.prompt": "{text.real}"}, "task: `{text.real}` is not a plain `{column}`"),
        ({"task.max_tokens": 0}, "task.max_tokens: input should be greater than or equal to 1 (got 0)"),
        ({"teacher.engine.tensor_parallel_size": 2}, "teacher.engine: tensor_parallel_size and"),
        ({"prices.teacher_input": float("nan")}, "prices.teacher_input: input should be a finite number"),
        ({"curation.test": 0.7}, "curation: validation, calibration and test together"),
        ({"curation.min_records": 10}, "curation.min_records: input should be greater than or equal to 50"),
        ({"curation.filters.length": {}}, "curation.filters.length: give `min`, `max` or both"),
        ({"curation.filters.length": {"min": 3, "max": 2}}, "curation.filters.length: min (3) is more than max (2)"),
        ({"curation.filters.lenght": {"max": 2}}, "curation.filters.lenght: unknown key; did you mean `length`?"),
        (
            {"curation.filters.patterns": {"x": {"regex": "(a"}}},
            "curation.filters.patterns.x: `regex` is not a regular expression: missing )",
        ),
        (
            {"curation.filters.language": {"allowed": ["english"], "look_in": "prompt"}},
            "curation.filters.language: `allowed` names 'english', which is none of the codes known: ace,",
        ),
        ({"curation.filters.python": "my_filters.py"}, "curation.filters.python: string should match pattern"),
        (
            {"curation.filters.pii": {"entities": ["NAME", "URL"], "look_in": "prompt"}},
            "curation.filters.pii.entities.0: input should be 'EMAIL_ADDRESS'",
        ),
        (
            {"curation.filters.profanity": {}},
            "recipe: `curation.filters.profanity` looks at completions, which are the choices: set its `look_in:",
        ),
        ({"curation.filters.consistency": {}}, "recipe: `curation.filters.consistency` compares several completions"),
        (
            {
                "curation.filters.uncertainty": {},
                "teacher": {"model": "gpt", "url": "http://x/v1"},
                "capture.mode": "text",
                "student": {"init": {"kind": "pretrained", "model": "x"}, "kd_weight": 0},
            },
            "recipe: `curation.filters.uncertainty` needs the teacher's logprobs",
        ),
        ({"student.init.kind": "pretrained"}, "student.init: `model` goes with `kind: pretrained`"),
        ({"student.init.model": "x"}, "student.init: `model` goes with `kind: pretrained`"),
        (
            {"student.openai": {"model": "gpt"}, "student.lora": {"rank": 4}},
            "student: `lora` is for weights that are trained here, not for `openai`: leave it out",
        ),
        (
            {"student.openai": {"model": "gpt"}, "student.init": {"kind": "pretrained", "model": "x"}},
            "student: `init` is for weights that are trained here",
        ),
        ({"student.openai": {"model": "gpt"}, "student.kd_weight": 0.9}, "student: `kd_weight`: `openai` learns from"),
        ({"student.openai": {"model": ""}}, "student.openai.model: string should have at least 1 character"),
        (
            {"student.openai": {"model": "gpt"}, "teacher.url": "http://x/v1", "capture.mode": "text"},
            "recipe: `teacher.url` with `student.openai` needs `teacher.tokenizer`",
        ),
        ({"teacher.tune": {}, "data.label": None}, "recipe: `teacher.tune` needs `data.label`"),
        ({"teacher.tune": {"batch_size": 12}}, "teacher.tune: batch_size (12) must be a multiple of workers"),
        ({"teacher.tune": {"lora": {"quantize": "nf4"}}}, "teacher.tune: `lora.quantize` needs `device: cuda`"),
        ({"teacher.tune": {"kd_weight": 1}}, "teacher.tune.kd_weight: unknown key"),
        (
            {
                "teacher": {"model": "gpt", "url": "http://x/v1", "tune": {}},
                "capture.mode": "text",
                "student": {"init": {"kind": "pretrained", "model": "x"}, "kd_weight": 0},
            },
            "teacher: `tune` needs the teacher's weights, which `url` does not give",
        ),
        ({"student.zero_stage": 4}, "student.zero_stage: input should be 0, 1, 2 or 3 (got 4)"),
        ({"data.labels": {"0": "neutral"}}, "recipe: `data.labels.0` is 'neutral', which is not one of"),
        ({"data.labels": {"0": "negative"}, "data.label": None}, "recipe: `data.labels` maps the values"),
        ({"serving.port": 70000}, "serving.port: input should be less than or equal to 65535 (got 70000)"),
    ],
)
def test_one_problem(make_recipe: MakeRecipe, changes: dict[str, Any], told: str) -> None:
    (line,) = problems(make_recipe, changes)
    assert line.startswith(told)


def test_members_of_an_ensemble_are_not_tuned(make_recipe: MakeRecipe) -> None:
    members = [{"name": "b", "model": "org/b", "tune": {}}]
    told = problems(make_recipe, {"ensemble": {"combine": "majority", "members": members}})
    assert told[0] == "ensemble.members.0.tune: is for the first teacher alone: leave it out"
    assert make_recipe({"ensemble": {"combine": "majority", "members": [{**members[0], "tune": None}]}}).ensemble


def test_braces_that_are_meant_are_written_twice(make_recipe: MakeRecipe) -> None:
    assert make_recipe({"task.prompt": '{{"text": {text}}} {title} {text}'}).task.fields() == ["text", "title"]


def test_relative_paths_start_at_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipes" / "models" / "student").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "recipes" / "recipe.yaml"
    path.write_text(
        "name: x\n"
        "task: {kind: text, prompt: '{text}'}\n"
        "data: {path: ../data.csv}\n"
        "teacher: {model: org/teacher}\n"
        "student: {init: {kind: pretrained, model: models/student}}\n"
    )
    monkeypatch.chdir(tmp_path / "elsewhere")
    recipe = load_recipe("../recipes/recipe.yaml")
    assert recipe.data.path == str(tmp_path / "data.csv")
    assert recipe.student.init.model == str(tmp_path / "recipes" / "models" / "student")
    assert recipe.teacher.model == "org/teacher"


@pytest.mark.parametrize("data", ["/data/x.csv", "s3://bucket/x.csv", "pkg://package/x.csv"])
def test_other_addresses_stay(tmp_path: Path, data: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"name: x\ntask: {{kind: text, prompt: '{{t}}'}}\ndata: {{path: '{data}'}}\nteacher: {{model: m}}\n"
    )
    assert load_recipe(path).data.path == data


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"name: [", "is not YAML: while parsing"),
        (b"- a\n- b\n", "must be a mapping"),
        (b"", "must be a mapping"),
        (b"name: \xff\xfe", "cannot be read"),
    ],
)
def test_files_that_are_no_recipe(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=told) as caught:
        load_recipe(path)
    assert "\n" not in str(caught.value)


def test_missing_recipe(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"the recipe {tmp_path}/none.yaml does not exist"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        load_recipe(tmp_path)


def test_an_ensemble_that_votes_can_disagree(make_recipe: MakeRecipe) -> None:
    members = [{"name": "b", "model": "org/b"}]
    changes = {"ensemble": {"combine": "majority", "members": members}, "curation.filters.consistency": {}}
    assert make_recipe(changes).curation.filters.consistency


def test_by_default_a_fifth_is_held_out(make_recipe: MakeRecipe) -> None:
    curation = make_recipe().curation
    assert curation.calibration + curation.test == pytest.approx(0.2)


def test_a_filter_beside_the_recipe_is_found_from_anywhere(tmp_path: Path, make_recipe: MakeRecipe) -> None:
    (tmp_path / "own.py").write_text("")
    recipe = make_recipe({"curation.filters.python": "own:keep"})
    assert parse_recipe(dump_recipe(recipe), source="x", folder=tmp_path).curation.filters.python == (
        f"{tmp_path}/own.py:keep"
    )
    installed = make_recipe({"curation.filters.python": "json:dumps"})
    assert parse_recipe(dump_recipe(installed), source="x", folder=tmp_path).curation == installed.curation
