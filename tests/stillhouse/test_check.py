"""`stillhouse check` without a teacher: what it refuses, what it warns of by name, and what it estimates."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from rich.console import Console
from typer.testing import CliRunner

from stillhouse.check.build import build, check_without_teacher
from stillhouse.check.contract import tilings, width_finding
from stillhouse.check.estimate import total
from stillhouse.check.findings import Check, Finding
from stillhouse.check.inputs import read_inputs
from stillhouse.check.sample import Answered, Asked, determinism, mass, measure, reads_back
from stillhouse.check.show import show
from stillhouse.cli import app
from stillhouse.errors import UserError
from stillhouse.recipe import Recipe, Task
from stillhouse.recipe_file import dump_recipe
from stillhouse.signal.schema import Completion
from stillhouse.signal.sparse import SparseSignal

MakeRecipe = Callable[..., Recipe]
MakeTokenizer = Callable[..., Any]

WORDS = "good film Review Sentiment : positive negative"
TEXTS = ("{}", "good {}", "good good film {}")
LABELS = ("positive", "", "negative")
PRICES = {
    "prices.teacher_input": 10.0,
    "prices.teacher_output": 1000.0,
    "prices.student_input": 0.0,
    "prices.student_output": 0.0,
}
PROMPT = [4, 6, 1, 5, 6]
"""`Review`, `:`, a number that is no word, `Sentiment`, `:`."""


def save(tokenizer: Any, folder: Path, **config: Any) -> str:
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    return str(folder)


def rows(count: int) -> list[dict[str, str]]:
    return [{"text": TEXTS[i % 3].format(i), "label": LABELS[i % 3]} for i in range(count)]


def write(path: Path, content: Sequence[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return str(path)


@pytest.fixture
def places(tmp_path: Path, make_tokenizer: MakeTokenizer) -> dict[str, Any]:
    """A teacher and sixty rows of data: what a recipe needs to be checked."""
    return {
        "data.path": write(tmp_path / "data.jsonl", rows(60)),
        "teacher.model": save(make_tokenizer(WORDS), tmp_path / "teacher"),
        "capture.top_k": 5,
    }


@pytest.fixture
def refused(make_recipe: MakeRecipe, places: dict[str, Any]) -> Callable[..., str]:
    """The one sentence that a recipe with these changes is refused with."""

    def refuse(changes: dict[str, Any]) -> str:
        with pytest.raises(UserError) as error:
            check_without_teacher(make_recipe({**places, **changes}))
        assert "\n" not in str(error.value)
        return str(error.value)

    return refuse


@pytest.fixture
def warned(make_recipe: MakeRecipe, places: dict[str, Any]) -> Callable[..., dict[str, Finding]]:
    """The warnings about a recipe with these changes, by name."""

    def warn(changes: dict[str, Any]) -> dict[str, Finding]:
        found = check_without_teacher(make_recipe({**places, **changes})).warnings
        assert all(each.text.endswith(".") and each.remedy.endswith(".") for each in found)
        return {each.name: each for each in found}

    return warn


def test_counts_tokens_and_cost(make_recipe: MakeRecipe, places: dict[str, Any]) -> None:
    found = check_without_teacher(make_recipe({**places, **PRICES}))
    assert (found.records, found.labelled) == (60, 40)
    # `Review`, `:`, the text, `Sentiment`, `:`
    assert found.prompts.mean == pytest.approx((5 + 6 + 8) / 3)
    assert (found.prompts.counted, found.prompts.longest) == (60, 8)
    assert found.largest_cost == pytest.approx((20 * 19 * 10 + 60 * 4 * 1000) / 1e6)
    assert found.teachers == ()
    batch = {"prices.batch_discount": 0.5, "teacher.batch": True, "capture.mode": "text", "student.kd_weight": 0}
    endpoint = {"teacher.url": "http://127.0.0.1:9/v1", "student.init": {"kind": "pretrained"}}
    endpoint["student.init"]["model"] = places["teacher.model"]
    halved = check_without_teacher(make_recipe({**places, **PRICES, **endpoint, **batch}))
    assert halved.largest_cost == pytest.approx(found.largest_cost / 2)


# What is refused


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "data.jsonl does not exist"),
        (b"", "data.jsonl holds no rows"),
        (b"\n\n", "data.jsonl holds no rows"),
        (b'{"text": "good", "label": ""}\n', "holds 1 records, and curation needs at least 50"),
        (b'{"text": "gut \xff", "label": ""}\n', "line 1 is not UTF-8"),
        (b'{"id": 7, "text": "good", "label": ""}\n' * 2, "line 1 and line 2 have the same id '7'"),
        (b'{"text": "good", "label": "so so"}\n', "line 1: the label 'so so' is none of the choices"),
    ],
)
def test_data_that_cannot_be_used(
    refused: Callable[..., str], tmp_path: Path, content: bytes | None, sentence: str
) -> None:
    (tmp_path / "data.jsonl").unlink()
    if content is not None:
        (tmp_path / "data.jsonl").write_bytes(content)
    assert sentence in refused({})


def test_a_student_with_other_tokens(
    make_recipe: MakeRecipe, make_tokenizer: MakeTokenizer, places: dict[str, Any], tmp_path: Path, refused: Any
) -> None:
    other = save(make_tokenizer("good film Sentiment Review : positive negative"), tmp_path / "student")
    init = {"student.init": {"kind": "pretrained", "model": other}}
    assert "the token 'Review' is number 4 in the teacher and number 5 in the student" in refused(init)
    # Words alone are stored in the student's own tokens.
    words = check_without_teacher(make_recipe({**places, **init, "capture.mode": "text", "student.kd_weight": 0}))
    assert (words.tokenizer, words.own_tokens) == (other, False)
    same = {"student.init": {"kind": "pretrained", "model": places["teacher.model"]}}
    assert check_without_teacher(make_recipe({**places, **same})).own_tokens


def test_a_student_with_another_chat_template(
    make_recipe: MakeRecipe, make_tokenizer: MakeTokenizer, places: dict[str, Any], tmp_path: Path, refused: Any
) -> None:
    def templated(folder: str, template: str) -> str:
        return save(make_tokenizer(WORDS, template=template), tmp_path / folder)

    chat = {
        **places,
        "teacher.model": templated("first", "Review : {{ messages[0]['content'] }}"),
        "task.prompt": None,
        "task.messages": [{"role": "user", "content": "{text}"}],
    }
    same = {"student.init": {"kind": "pretrained", "model": templated("same", "Review : {{ messages[0]['content'] }}")}}
    other = {"student.init": {"kind": "pretrained", "model": templated("other", "{{ messages[0]['content'] }}")}}
    check_without_teacher(make_recipe({**chat, **same}))
    assert "has another chat template" in refused({**chat, **other})
    # A plain prompt goes through no template.
    check_without_teacher(make_recipe({**places, "teacher.model": chat["teacher.model"], **other}))


def test_teachers_whose_tokens_cannot_be_stored_together(
    make_recipe: MakeRecipe, make_tokenizer: MakeTokenizer, places: dict[str, Any], tmp_path: Path, refused: Any
) -> None:
    def ensemble(model: str) -> dict[str, Any]:
        return {"ensemble": {"combine": "majority", "members": [{"name": "second", "model": model}]}}

    other = save(make_tokenizer(f"{WORDS} dull"), tmp_path / "second")
    assert "ensemble.members.0: the tokenizer of" in refused(ensemble(other))
    check_without_teacher(make_recipe({**places, **ensemble(places["teacher.model"])}))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"capture.top_k": 10}, "capture.top_k: 10 is more than the 9 tokens of the vocabulary: set at most 9"),
        ({"task.max_tokens": 1}, "takes 2 tokens with the end of the sequence, and 1 are allowed: set at least 2"),
        ({"task.choices": [" positive", " dull"]}, "the tokenizer has no tokens for ' dull'"),
        ({"task.choices": [" positive negative", " positive  negative"]}, "are the same tokens"),
        ({"student.init.layers": 33}, "student.init.layers: 33 is more than the teacher's 32"),
        ({"student.init.layers": [0, 32]}, "student.init.layers: 33 is more than the teacher's 32"),
        (
            {"student.openai": {"model": "gpt", "max_example_tokens": 16}, "task.max_tokens": 12},
            "student.openai.max_example_tokens: no prompt leaves room for an answer",
        ),
        ({"teacher.engine.max_model_len": 4096}, "4096 is more than the 2048 positions of the model: set at most 2048"),
        ({"student.engine.max_model_len": 4096}, "student.engine.max_model_len: 4096 is more than the 2048"),
        ({"teacher.engine.max_model_len": 16, "task.max_tokens": 16}, "leaves no room for a prompt"),
        ({"teacher.engine.max_model_len": 16, "task.max_tokens": 12}, "no prompt fits the 4 tokens"),
        ({"student.engine.max_model_len": 16, "task.max_tokens": 12}, "no prompt leaves room for an answer"),
        ({"teacher.model": "./none"}, "the model folder ./none does not exist"),
        ({"curation.min_records": 61}, "holds 60 records, and curation needs at least 61"),
    ],
)
def test_sizes_that_cannot_work(refused: Callable[..., str], changes: dict[str, Any], sentence: str) -> None:
    labels = {"data.label": None} if "task.choices" in changes else {}
    assert sentence in refused({**changes, **labels})


def test_a_model_whose_configuration_is_damaged(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "teacher" / "config.json").write_text("{")
    assert "cannot be loaded: " in refused({})


def test_a_scaled_model_reads_further_than_its_positions(
    make_recipe: MakeRecipe, make_tokenizer: MakeTokenizer, places: dict[str, Any], tmp_path: Path
) -> None:
    scaled = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512, "rope_theta": 1e4}
    model = save(make_tokenizer(WORDS), tmp_path / "scaled", rope_parameters=scaled, max_position_embeddings=512)
    check_without_teacher(make_recipe({**places, "teacher.model": model}))


def test_nothing_to_score(refused: Callable[..., str], tmp_path: Path, warned: Any) -> None:
    score = {"capture.completions": "gold"}
    assert warned(score)["no-completion"].text == "20 of 60 records have no completion to score, and will fail."
    write(tmp_path / "data.jsonl", [{"text": "good", "label": ""}] * 60)
    assert "has anything in the column 'label', and there is nothing to score" in refused(score)


# What is warned of


def test_a_teacher_that_is_tuned_first(
    refused: Callable[..., str], make_recipe: MakeRecipe, places: dict[str, Any]
) -> None:
    assert "41 gold answers are to be tuned on, and 40 of 60 records" in refused({"teacher.tune": {"records": 41}})
    held_out = {"curation.calibration": 0.15, "curation.test": 0.15}
    assert "no more than 39 are for training" in refused({"teacher.tune": {"records": 40}, **held_out})
    found = check_without_teacher(make_recipe({**places, "teacher.tune": {"records": 30}}))
    assert found.tuned_on == 30
    output = io.StringIO()
    show(found, Console(file=output, width=200))
    assert "on 30 of the gold answers, before the capture\n" in output.getvalue().replace("  ", "")


def test_few_records(warned: Callable[..., dict[str, Finding]], tmp_path: Path) -> None:
    found = warned({"evaluation.alpha": 0.1, "evaluation.delta": 0.05})
    assert found["few-examples"].text.startswith("60 different records are few")
    # (1 - 0.1)^28 > 0.05 >= (1 - 0.1)^29
    assert "fewer than 29" in found["few-for-calibration"].text
    write(tmp_path / "data.jsonl", rows(500))
    assert not {"few-examples", "few-for-calibration", "no-gold"} & set(warned({}))


def test_records_that_a_score_is_fitted_on_promise_nothing(
    warned: Callable[..., dict[str, Finding]], tmp_path: Path
) -> None:
    write(tmp_path / "data.jsonl", rows(400))

    def few(score: str, **changes: Any) -> Finding | None:
        # (1 - 0.1)^29 <= 0.05: 29 records are needed, and 40 are there.
        return warned({"evaluation": {"score": score, "alpha": 0.1, "delta": 0.05, **changes}}).get(
            "few-for-calibration"
        )

    for plain in ("sequence_probability", "mean_logprob", "auto"):  # `auto` fits none from so few
        assert few(plain) is None
    for fitted in ("logistic", "isotonic"):
        found = few(fitted)
        assert found is not None
        assert "about 27 records will calibrate the threshold" in found.text
        assert f"as `evaluation.score: {fitted}` is fitted on 13 of the 40 in the calibration split" in found.text
        assert "`evaluation.score: sequence_probability`" in found.remedy
        assert few(fitted, alpha=0.2) is None
    told = few("sequence_probability", alpha=0.05)
    assert told is not None
    assert told.text.startswith("about 40 records will calibrate the threshold, and `evaluation.alpha: 0.05`")
    assert "not fitted" not in told.remedy


def test_auto_counts_as_fitted_where_it_would_be(warned: Callable[..., dict[str, Finding]], tmp_path: Path) -> None:
    write(tmp_path / "data.jsonl", [{"text": str(i), "label": ""} for i in range(1000)])
    promise = {"curation.calibration": 0.4, "evaluation.alpha": 0.01, "evaluation.delta": 0.05}
    choices = {"data.label": None, "task.choices": [" good", " film", " positive"]}
    assert "few-for-calibration" not in warned({**promise})  # two choices, and nothing to pick from
    found = warned({**promise, **choices})["few-for-calibration"]
    assert "as `evaluation.score: auto` is fitted on 133 of the 400 in the calibration split" in found.text
    assert "fewer than 299" in found.text


def test_prompts_that_came_before(warned: Callable[..., dict[str, Finding]], tmp_path: Path, refused: Any) -> None:
    def repeated(distinct: int) -> None:
        write(tmp_path / "data.jsonl", [{"text": f"Good  {i % distinct}", "label": ""} for i in range(600)])

    repeated(60)
    assert "540 of 600 prompts came before" in warned({})["duplicates"].text
    assert "60 different records are few" in warned({})["few-examples"].text
    repeated(580)
    assert not {"duplicates", "few-examples"} & set(warned({}))
    repeated(49)
    assert "holds 600 records, 49 of them different, and curation needs at least 50" in refused({})


def test_a_route_that_no_record_takes(warned: Callable[..., dict[str, Finding]], places: dict[str, Any]) -> None:
    def routed(value: str) -> dict[str, Finding]:
        member = {"name": "second", "model": places["teacher.model"], "when": {"label": value}}
        return warned({"ensemble": {"combine": "route", "members": [member]}})

    assert "no record goes to the teacher 'second'" in routed("Positive")["unused-teacher"].text
    assert "unused-teacher" not in routed("positive")


def test_no_gold(warned: Callable[..., dict[str, Finding]]) -> None:
    assert "no record has a gold answer" in warned({"data.label": None})["no-gold"].text
    assert "20 of 60 records have no gold" in warned({"evaluation.against": "gold"})["no-gold"].text


def test_prompts_that_do_not_fit(warned: Callable[..., dict[str, Finding]]) -> None:
    teacher = {"teacher.engine.max_model_len": 16, "task.max_tokens": 9}
    found = warned(teacher)["prompts-too-long"]
    assert "20 of 60 prompts are longer than the 7 tokens that fit" in found.text
    assert "the capture with them" in found.text
    assert "to 17 or more" in found.remedy
    assert "the capture with them" not in warned({**teacher, "capture.max_failed": 0.5})["prompts-too-long"].text
    assert "prompts-too-long" not in warned({"teacher.engine.max_model_len": 16, "task.max_tokens": 8})
    assert "20 of 60" in warned({"student.max_length": 8})["student-too-short"].text
    found = warned({"student.openai": {"model": "gpt", "max_example_tokens": 16}, "task.max_tokens": 9})
    assert "20 of 60" in found["student-too-short"].text
    assert "Set `student.openai.max_example_tokens` to 17 or more" in found["student-too-short"].remedy


def test_choices_that_meet(warned: Callable[..., dict[str, Finding]], tmp_path: Path, make_tokenizer: Any) -> None:
    plain = {"data.label": None}
    assert not {"prefix-choice", "ambiguous-choice"} & set(warned(plain))
    begins = warned({**plain, "task.choices": ["good", "good film", "negative"]})["prefix-choice"]
    assert "the choice 'good' begins the choice 'good film'" in begins.text
    teacher = {"teacher.model": save(make_tokenizer(f"{WORDS} goodfilm"), tmp_path / "ways")}
    # As words cannot be pieces of each other in this tokenizer, the choices are these words.
    assert tilings("goodfilm", {"good", "film", "goodfilm"}) == 2
    assert (
        "in 2 ways"
        in warned({**plain, **teacher, "task.choices": ["good", "film", "goodfilm"]})["ambiguous-choice"].text
    )


def test_tilings_count_every_way() -> None:
    # Fibonacci: rows of ones and twos.
    assert [tilings("a" * n, {"a", "aa"}) for n in range(6)] == [1, 1, 2, 3, 5, 8]
    assert tilings("ab", {"b"}) == 0


OPEN = {"type": "object"}
CLOSED = {"type": "object", "properties": {"n": {"type": "integer"}}, "additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (CLOSED, None),
        ({**CLOSED, "additionalProperties": True}, "the answer, beside its properties,"),
        (OPEN, "the answer"),
        ({}, "the answer"),
        ({"type": "object", "properties": {"who": {}}}, "`who`"),
        ({"type": "object", "properties": {"who": {"type": "object"}}}, "`who`"),
        ({"type": "object", "properties": {"who": {"type": "array"}}}, "the items of `who`"),
        ({"type": "array", "items": {"type": "string"}}, None),
        ({"anyOf": [CLOSED, {"type": "null"}]}, None),
        ({"$ref": "#/$defs/a", "$defs": {"a": OPEN}}, "the answer"),
        # A tree of itself ends somewhere.
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}}}, None),
        ({"type": "object", "properties": {f"v{i}": {"type": "string"} for i in range(25)}}, None),
        ({"type": "object", "properties": {f"v{i}": {"type": "string"} for i in range(26)}}, "26 values"),
        ({"enum": ["a", "b"]}, None),
    ],
)
def test_how_wide_a_schema_is(schema: dict[str, Any], said: str | None) -> None:
    found = width_finding(Task(kind="json", prompt="{text}", json_schema=schema))
    if said is None:
        assert found is None
    else:
        assert found is not None
        assert found.name == "wide-output"
        assert said in found.text


def test_how_wide_other_contracts_are() -> None:
    def width(**task: Any) -> Finding | None:
        return width_finding(Task(prompt="{text}", **task))

    assert width(kind="text", max_tokens=256) is None
    assert width(kind="text", max_tokens=257) is not None
    assert width(kind="choices", choices=tuple(map(str, range(100)))) is None
    assert width(kind="choices", choices=tuple(map(str, range(101)))) is not None


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, {"no-prices"}),
        ({"prices.monthly_requests": 9_999}, {"no-prices", "low-volume"}),
        (PRICES, {"unknown-volume"}),
        ({**PRICES, "prices.student_output": None}, {"unpriced", "unknown-volume"}),
        ({**PRICES, "prices.monthly_requests": 9_999}, {"low-volume"}),
        ({**PRICES, "prices.monthly_requests": 10_000}, set()),
        ({**PRICES, "prices.monthly_requests": 10_000, "prices.training": 1e4}, {"long-payback"}),
        ({**PRICES, "prices.student_output": 1000.0, "prices.student_input": 10.0}, {"no-saving"}),
        ({**PRICES, "prices.monthly_requests": 10**6, "capture.budget": 0.2}, {"over-budget"}),
        ({**PRICES, "prices.monthly_requests": 10**6, "capture.budget": 0.3}, set()),
    ],
)
def test_whether_it_pays(warned: Callable[..., dict[str, Finding]], changes: dict[str, Any], names: set[str]) -> None:
    about = {"no-prices", "unpriced", "unknown-volume", "low-volume", "long-payback", "no-saving", "over-budget"}
    assert set(warned(changes)) & about == names


def test_a_missing_key_is_named(
    warned: Callable[..., dict[str, Finding]], monkeypatch: pytest.MonkeyPatch, places: dict[str, Any]
) -> None:
    endpoint = {
        "teacher.url": "http://127.0.0.1:9/v1",
        "teacher.api_key_env": "TEACHER_KEY",
        "capture.mode": "text",
        "student.kd_weight": 0,
        "student.init": {"kind": "pretrained", "model": places["teacher.model"]},
    }
    monkeypatch.delenv("TEACHER_KEY", raising=False)
    assert "TEACHER_KEY" in warned(endpoint)["no-key"].text
    monkeypatch.setenv("TEACHER_KEY", "sk-secret")
    assert "no-key" not in warned(endpoint)
    monkeypatch.delenv("TEACHER_KEY")
    assert "no-key" not in warned({**endpoint, "teacher.api_key_env": None})


# The user's own filter


@pytest.fixture
def own(tmp_path: Path, places: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """The changes that give the recipe a filter with this source."""

    def write_own(source: str, function: str = "keep") -> dict[str, Any]:
        (tmp_path / "own.py").write_text(source)
        return {"curation.filters": {"python": f"{tmp_path}/own.py:{function}"}}

    return write_own


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("import nothing_like_it", "ModuleNotFoundError: No module named 'nothing_like_it'"),
        ("def keep(:", "SyntaxError"),
        ("raise SystemExit('usage')", "SystemExit: usage"),
        ("keep = 7", "has no function 'keep'"),
        ("def keep(): return True", "keep() is called with one record, a dict: too many positional arguments"),
        ("def keep(record, again): return True", "missing a required argument: 'again'"),
    ],
)
def test_a_filter_that_cannot_be_called(
    refused: Callable[..., str], own: Callable[..., dict[str, Any]], source: str, sentence: str
) -> None:
    told = refused(own(source))
    assert told.startswith("curation.filters.python: ")
    assert "own.py:keep cannot be loaded: " in told
    assert sentence in told


BROKEN = [
    ("def keep(record): return 1 / 0", "raised ZeroDivisionError: division by zero"),
    ("def keep(record): return record['email']", "raised KeyError: 'email'"),
    ("def keep(record): raise SystemExit(3)", "raised SystemExit: 3"),
    ("def keep(record): pass", "returned None: return True, False, or a reason to drop it"),
    ("def keep(record): return 1", "returned 1: return True"),
]


@pytest.mark.parametrize(("source", "sentence"), BROKEN)
def test_a_filter_that_cannot_judge_what_there_is_without_a_teacher(
    refused: Callable[..., str],
    own: Callable[..., dict[str, Any]],
    make_recipe: MakeRecipe,
    places: dict[str, Any],
    source: str,
    sentence: str,
) -> None:
    told = refused({**own(source), "capture.completions": "gold"})
    assert "own.py:keep, called with the record" in told
    assert sentence in told
    # Without any completion it is not called.
    check_without_teacher(make_recipe({**places, **own(source)}))


def test_what_a_filter_is_given_of_completions_that_are_there(
    make_recipe: MakeRecipe, places: dict[str, Any], own: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """As curation will give it: the fields, the graded answer, and a confidence that can be compared."""
    keep = (
        "def keep(record):\n"
        f"    open({str(tmp_path / 'seen')!r}, 'a').write(record['answer'] + '\\n')\n"
        "    assert set(record['fields']) == {'text'} and record['gold'] == record['answer'], record\n"
        "    return record['confidence'] > 0.5\n"
    )
    for mode in ("topk", "text"):
        recipe = {**places, **own(keep), "capture.completions": "gold", "capture.mode": mode}
        changes = {"student.kd_weight": 0, "student.ce_weight": 1} if mode == "text" else {}
        check_without_teacher(make_recipe({**recipe, **changes}))
    seen = (tmp_path / "seen").read_text().split()
    assert len(seen) == 2 * 20
    assert set(seen) == {"positive", "negative"}


def test_a_filter_sees_what_the_other_filters_leave(
    make_recipe: MakeRecipe, places: dict[str, Any], own: Callable[..., dict[str, Any]]
) -> None:
    keep = "def keep(record):\n    assert 'film' not in record['fields']['text']\n    return True\n"
    changes = {**places, **own(keep), "capture.completions": "gold"}
    with pytest.raises(UserError, match="raised AssertionError"):
        check_without_teacher(make_recipe(changes))
    changes["curation.filters"]["patterns"] = {"film": {"regex": "film", "look_in": "prompt"}}
    check_without_teacher(make_recipe(changes))


def test_what_a_filter_prints_is_not_in_the_json(
    make_recipe: MakeRecipe, places: dict[str, Any], own: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    changes = own("print('loaded')\ndef keep(record):\n    print('called')\n    return True\n")
    (tmp_path / "recipe.yaml").write_text(
        dump_recipe(make_recipe({**places, **changes, "capture.completions": "gold"}))
    )
    done = CliRunner().invoke(app, ["check", str(tmp_path / "recipe.yaml"), "--no-teacher", "--json"])
    assert Check.model_validate_json(done.stdout).records == 60
    assert {"loaded", "called"} <= set(done.stderr.split())


# What a sample tells


def completion(
    text: str = "positive",
    ids: Sequence[int] = (7, 0),
    *,
    prompt: Sequence[int] = PROMPT,
    logprobs: Sequence[float] = (-0.5, 0.0),
    held: float = 0.95,
    reason: str = "stop",
) -> Completion:
    """An answer whose two most probable tokens hold `held` at each place."""
    top = [math.log(held * 0.75), math.log(held * 0.25)]
    signal = SparseSignal.of([[7, 8]] * len(ids), [top] * len(ids))
    return Completion(list(prompt), text, list(ids), reason, list(logprobs), signal)


def asked(recipe: Recipe, answers: Sequence[Answered], **changes: Any) -> Asked:
    """What a teacher gave to the first records of one word."""
    inputs = read_inputs(recipe)
    records = [record for record in inputs.looked_at if record.fields["text"].isdigit()][: len(answers)]
    keys = {"repeats": [answers[0]] * 3, "seconds": 2.0, "ready": 1.0, "billed": None, **changes}
    return Asked("teacher", "the-teacher", "scripted", "float32", records, answers, **keys)


@pytest.fixture
def found(make_recipe: MakeRecipe, places: dict[str, Any]) -> Callable[..., Check]:
    """The check of a recipe whose teacher gave these answers."""

    def find(answers: Sequence[Answered], changes: dict[str, Any] | None = None, **given: Any) -> Check:
        recipe = make_recipe({**places, **PRICES, **(changes or {})})
        inputs = read_inputs(recipe)
        return build(recipe, inputs, [measure(recipe, inputs, asked(recipe, answers, **given))])

    return find


def names(check: Check) -> set[str]:
    return {warning.name for warning in check.warnings}


SAMPLE_NAMES = {"not-deterministic", "low-mass", "contract-broken", "truncated", "failed-answers", "misread-tokens"}


def test_a_good_sample(found: Callable[..., Check]) -> None:
    check = found([completion()] * 10)
    (teacher,) = check.teachers
    assert not names(check) & SAMPLE_NAMES
    assert teacher.requests == 12
    assert teacher.determinism is not None
    assert (teacher.determinism.same, teacher.determinism.logprob_difference) == (True, 0.0)
    assert teacher.mass is not None
    assert teacher.mass.mean == pytest.approx(0.95)
    assert (teacher.contract.value, teacher.contract.n) == (1.0, 10)
    assert teacher.right is not None
    assert teacher.right.value == 1.0
    # All 60 prompts are counted, and all completions have two tokens.
    assert teacher.tokens.value == teacher.tokens.low == teacher.tokens.high == 20 * 19 + 120
    assert teacher.cost.value == pytest.approx((380 * 10 + 120 * 1000) / 1e6)
    assert teacher.tokens_per_second == pytest.approx(10 * 7 / 2.0)
    assert teacher.time.value == pytest.approx(500 / 35)


def test_what_a_sample_warns_of(found: Callable[..., Check]) -> None:
    whole = [completion()] * 9
    assert names(found([*whole, completion("dull", [3, 0])])) & SAMPLE_NAMES == {"contract-broken", "misread-tokens"}
    assert names(found([*whole, completion(ids=[7], reason="length", logprobs=[-0.5])])) & SAMPLE_NAMES == {"truncated"}
    assert names(found([*whole, "429: slow down"])) & SAMPLE_NAMES == {"failed-answers"}
    assert names(found([*whole, "429: slow down"], {"capture.max_failed": 0.1})) & SAMPLE_NAMES == set()
    low = found([completion(held=0.8)] * 10)
    assert names(low) & SAMPLE_NAMES == {"low-mass"}
    assert "`capture.top_k`" in {warning.name: warning.remedy for warning in low.warnings}["low-mass"]
    drifted = [completion(), completion(), completion(logprobs=[-0.52, 0.0])]
    assert names(found(whole, repeats=drifted)) & SAMPLE_NAMES == {"not-deterministic"}
    close = [completion(), completion(), completion(logprobs=[-0.501, 0.0])]
    assert names(found(whole, repeats=close)) & SAMPLE_NAMES == set()
    other = [completion(), completion(), completion("negative", [8, 0])]
    assert names(found(whole, repeats=other)) & SAMPLE_NAMES == {"not-deterministic"}


@pytest.mark.parametrize(
    ("answers", "sentence"),
    [
        (["no access", "no access"], "answered none of 2 prompts: no access"),
        ([completion("dull", [3, 0])] * 2, "none of the 2 answers of the-teacher keeps the task's contract"),
        (
            [completion(prompt=[4, 6, 1, 5])] * 2,
            "has nothing at place 4 for the teacher and token 6 (':') for the student",
        ),
        (
            [completion(prompt=[4, 6, 3, 5, 6])] * 2,
            "has token 3 ('film') at place 2 for the teacher and token 1 (",
        ),
    ],
)
def test_a_sample_that_cannot_work(found: Callable[..., Check], answers: list[Answered], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        found(answers)
    assert sentence in str(error.value)


@pytest.mark.parametrize(("source", "sentence"), BROKEN)
def test_a_filter_that_cannot_judge_a_teachers_answers(
    found: Callable[..., Check], own: Callable[..., dict[str, Any]], source: str, sentence: str
) -> None:
    with pytest.raises(UserError) as error:
        found([completion()] * 3, own(source))
    assert sentence in str(error.value)
    # What curation drops before, no filter is asked about.
    outside = [completion("dull", [3, 0])] * 9
    inside = "def keep(record):\n    assert record['answer'] == 'positive'\n    return 'too short'"
    assert found([completion(), *outside, "no answer"], own(inside)).teachers[0].contract.n == 10


def test_an_endpoints_own_count_is_taken(found: Callable[..., Check]) -> None:
    """It read 10 of our 5 tokens a prompt, and wrote one of our two a completion."""
    check = found([completion()] * 10, billed=(12 * 10, 12 * 1))
    (teacher,) = check.teachers
    assert teacher.completion.value == pytest.approx(1)
    assert teacher.tokens.value == pytest.approx(2 * 20 * 19 + 60)


def test_several_draws_and_failures_are_in_the_estimate(found: Callable[..., Check]) -> None:
    text = {"task.kind": "text", "task.choices": [], "data.label": None, "capture.n": 3}
    (teacher,) = found([completion()] * 8 + ["no answer"] * 2, text).teachers
    assert teacher.tokens.value == pytest.approx(380 + 60 * 3 * 2 * 0.8)
    assert teacher.completion.value == pytest.approx(2)
    assert teacher.tokens.low is not None
    assert teacher.tokens.low < teacher.tokens.value


def test_one_answer_has_no_interval(found: Callable[..., Check]) -> None:
    (teacher,) = found([completion()]).teachers
    assert teacher.tokens.value == 500
    assert (teacher.tokens.low, teacher.tokens.high) == (None, None)


def test_determinism_is_unknown_without_answers() -> None:
    assert determinism([completion(), "busy", completion()]) is None
    assert determinism([]) is None


def test_logprobs_that_nobody_tells_are_not_compared() -> None:
    told = determinism([completion(logprobs=[-0.5, math.nan])] * 3)
    assert told is not None
    assert told.logprob_difference == 0.0
    words = Completion(PROMPT, "positive", [7, 0], "stop", None, None)
    told = determinism([words] * 3)
    assert told is not None
    assert (told.same, told.logprob_difference) == (True, None)


def test_mass_is_over_the_tokens_that_have_entries() -> None:
    signal = SparseSignal.of([[7, 8], []], [[math.log(0.6), math.log(0.3)], []])
    found = mass([Completion(PROMPT, "positive", [7, 0], "stop", [-0.5, math.nan], signal)] * 2)
    assert found is not None
    assert (found.mean, found.p5) == (pytest.approx(0.9), pytest.approx(0.9))
    assert mass([Completion(PROMPT, "positive", [7, 0], "stop", None, None)]) is None


def test_token_ids_that_read_back(make_tokenizer: MakeTokenizer) -> None:
    tokenizer, task = make_tokenizer(WORDS), Task(kind="text", prompt="{text}")
    stops = Task.model_validate({**task.model_dump(), "sampling": {"stop": ["film"]}})
    assert reads_back(task, completion("positive"), tokenizer)
    # This tokenizer, too, tells the space in front of a word only after another word.
    assert reads_back(task, completion(" positive"), tokenizer)
    assert not reads_back(task, completion("negative"), tokenizer)
    longer = completion("good", [2, 3, 0])
    assert not reads_back(task, longer, tokenizer)
    assert reads_back(stops, longer, tokenizer)


# The intervals


def test_an_interval_is_students() -> None:
    values = np.random.default_rng(0).poisson(30, 20)
    low, high = scipy.stats.t.interval(0.95, 19, loc=values.mean(), scale=scipy.stats.sem(values))
    found = total([(2.0, values)], 10**12)
    assert (found.low, found.high) == (pytest.approx(2e12 * low), pytest.approx(2e12 * high))


def test_the_interval_of_two_means_is_welchs() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.normal(5, 1, 200), rng.normal(20, 6, 20)
    found = total([(1.0, first), (1.0, second)], 10**12)
    expected = scipy.stats.ttest_ind(first, -second, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(1e12 * expected.low), pytest.approx(1e12 * expected.high))


def test_an_interval_covers_the_sum_of_a_small_population() -> None:
    rng = np.random.default_rng(2)
    population = rng.gamma(4, 10, 60)
    covered = 0
    for _ in range(2000):
        found = total([(1.0, rng.choice(population, 20, replace=False))], 60)
        covered += found.low <= population.sum() <= found.high
    # 95% within four standard errors of 2,000 draws; without the correction it would be over 0.98.
    assert covered / 2000 == pytest.approx(0.95, abs=0.02)


def test_a_population_that_was_counted_has_no_interval() -> None:
    found = total([(1.0, [1, 2, 3])], 3)
    assert found.value == found.low == found.high == 6
    assert total([(1.0, [4])], 1).low == 4


# What is printed


def test_prints_what_was_found_as_it_is(found: Callable[..., Check]) -> None:
    output = io.StringIO()
    changes = {"task.choices": ["positive", "positive film", "negative"], "data.label": None}
    show(found([completion()] * 10, changes), Console(file=output, width=200, highlight=False))
    told = output.getvalue()
    assert "60, 0 with a gold answer" in told
    assert "one prompt, three times: the same tokens and logprobs" in told
    assert "warning prefix-choice: The choice 'positive' begins" in told


def test_markup_in_a_choice_is_text() -> None:
    warning = Finding(name="x", text="the choice '[bold]a[/bold]' is odd.", remedy="None [red].")
    counts = {"counted": 1, "mean": 1, "longest": 1, "too_long": 0, "too_long_for_student": 0}
    check = Check(
        recipe="tiny", records=1, labelled=0, duplicates=0, tokenizer="t", own_tokens=True, currency="USD",
        prompts=counts, largest_cost=None, training=0.0, teachers=(), payback=None, warnings=(warning,),
    )  # fmt: skip
    output = io.StringIO()
    show(check, Console(file=output, width=40))
    assert "warning x: The choice '[bold]a[/bold]' is odd. None [red].\n1 warning\n" in output.getvalue()


def test_json_is_read_back(found: Callable[..., Check]) -> None:
    check = found([completion()] * 10)
    assert Check.model_validate_json(check.model_dump_json()) == check
