"""A run's ledger, on numbers worked by hand."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from typer.testing import CliRunner

from stillhouse.cli import app
from stillhouse.cost.billing import FOLDER, Attempt, BilledTokens, Page
from stillhouse.cost.entries import Entry
from stillhouse.cost.ledger import Ledger, ledger
from stillhouse.errors import UserError
from stillhouse.recipe import Recipe
from stillhouse.recipe_file import dump_recipe
from stillhouse.run import Run, Step
from stillhouse.signal.schema import write_table

MakeRecipe = Callable[..., Recipe]

TOKEN_PRICES = {
    "prices.teacher_input": 10.0,
    "prices.teacher_output": 30.0,
    "prices.student_input": 1.0,
    "prices.student_output": 3.0,
}
HOURS = {"prices.gpu_hour": 2.0, "prices.cpu_hour": 0.5, "prices.reviewer_hour": 40.0}
GPU = {"teacher.engine.device": "cuda", "student.device": "cuda", "student.engine.device": "cuda"}
CAPTURED = {"records": 1000, "failed": 0, "prompt_tokens": 100_000, "completion_tokens": 2_000}
URL = {
    "teacher.url": "http://127.0.0.1:9/v1",
    "capture.mode": "text",
    "student.kd_weight": 0,
    "student.init": {"kind": "pretrained", "model": "org/student"},
}


@pytest.fixture
def made(tmp_path: Path, make_recipe: MakeRecipe) -> Callable[..., Run]:
    """A run with finished steps: their hours and counts."""

    def make(recipe: Recipe, **steps: tuple[float, dict[str, float]]) -> Run:
        run = Run.open(str(tmp_path / "run"))
        run.begin(recipe)
        for step, (hours, counts) in steps.items():
            name: Step = step  # type: ignore[assignment]
            manifest = run.commit(name, recipe=recipe, inputs={}, counts=counts, files=(), began=time.monotonic())
            written = manifest.model_copy(update={"seconds": hours * 3600})
            run.storage.write(f"{step}/manifest.json", written.model_dump_json().encode())
        return run

    return make


def measured(run: Run, *, fallback: float = 0.25) -> None:
    """What the ledger reads of a report."""
    tokens = {"teacher_tokens": {"prompt": 100, "completion": 2}, "student_tokens": {"prompt": 90, "completion": 3}}
    report = {"name": "tiny", "spending": tokens, "release": {"fallback_rate": {"value": fallback, "n": 100}}}
    run.storage.write("evaluation/report.json", json.dumps(report).encode())


def of(found: Ledger, step: str) -> Entry:
    return next(entry for entry in found.entries if entry.step == step)


def test_a_teacher_of_weights_costs_its_tokens_where_they_have_a_price(
    made: Callable[..., Run], make_recipe: MakeRecipe
) -> None:
    recipe = make_recipe(TOKEN_PRICES)
    found = ledger(recipe, made(recipe, capture=(3.0, CAPTURED)))
    (entry,) = found.entries
    assert [(item.quantity, item.price, item.amount) for item in entry.items] == [
        (100_000, 10, pytest.approx(1.0)),
        (2_000, 30, pytest.approx(0.06)),
    ]
    assert found.spent == entry.amount == pytest.approx(1.06)
    # Three completions of a prompt read it once; completions that are scored are read.
    three = make_recipe({**TOKEN_PRICES, "capture.n": 4, "task.sampling.temperature": 1.0, "task.kind": "text",
                         "task.choices": [], "data.label": None})  # fmt: skip
    assert ledger(three, made(three, capture=(3.0, CAPTURED))).spent == pytest.approx(0.25 + 0.06)
    gold = make_recipe({**TOKEN_PRICES, "capture.completions": "gold"})
    assert ledger(gold, made(gold, capture=(3.0, CAPTURED))).spent == pytest.approx(1.0 + 0.02)


def test_a_teacher_without_token_prices_costs_its_hours(made: Callable[..., Run], make_recipe: MakeRecipe) -> None:
    recipe = make_recipe({**HOURS, **GPU, "teacher.engine.tensor_parallel_size": 4})
    (item,) = of(ledger(recipe, made(recipe, capture=(3.0, CAPTURED))), "capture").items
    assert (item.quantity, item.key, item.amount) == (12, "prices.gpu_hour", 24)
    # No more engines than parts: 1,000 records of 400 are three.
    many = make_recipe({**HOURS, "capture.engines": {"min": 1, "max": 8}, "capture.part_size": 400})
    entry = of(ledger(many, made(many, capture=(2.0, CAPTURED))), "capture")
    assert (entry.items[0].quantity, entry.items[0].key) == (6, "prices.cpu_hour")
    assert entry.note == "counts 3 engines all the time, and there were 1 to 3"


def test_an_endpoint_costs_what_it_billed(made: Callable[..., Run], make_recipe: MakeRecipe) -> None:
    """Also before the capture has finished; what was cut off counts with its worst case."""
    recipe = make_recipe({**TOKEN_PRICES, **URL, "prices.batch_discount": 0.5})
    run = made(recipe)
    many = BilledTokens(prompt=1_000_000, completion=100_000)
    attempts = (
        Attempt(id="a", batch=False, worst=many, billed=BilledTokens(prompt=200_000, completion=10_000)),
        Attempt(id="b", batch=False, worst=many, billed=BilledTokens(prompt=100_000, completion=0)),
        Attempt(id="c", batch=True, worst=many, billed=many),
    )
    run.storage.write(f"{FOLDER}/part-00000.json", Page(attempts=attempts).model_dump_json().encode())
    found = ledger(recipe, run)
    assert [item.amount for item in of(found, "capture").items] == pytest.approx([3.0, 0.3, 5.0, 1.5])
    assert (of(found, "capture").note, found.serving) == ("", None)
    cut = Page(attempts=(*attempts, Attempt(id="d", batch=False, worst=many)))
    run.storage.write(f"{FOLDER}/part-00000.json", cut.model_dump_json().encode())
    found = ledger(recipe, run)
    assert found.spent == pytest.approx(9.8 + 13.0)
    assert "at worst" in of(found, "capture").note
    assert found.not_made == ("capture", "dataset", "student", "evaluation")


def test_hours_of_training_evaluation_and_people(made: Callable[..., Run], make_recipe: MakeRecipe) -> None:
    recipe = make_recipe({**TOKEN_PRICES, **HOURS, **GPU, "student.engine.tensor_parallel_size": 2})
    run = made(recipe, capture=(1, CAPTURED), dataset=(1, {}), student=(5, {"workers": 3}), evaluation=(0.5, {}))
    measured(run)
    found = ledger(recipe, run, review_minutes=90)
    assert [(entry.step, entry.amount) for entry in found.entries] == [
        ("capture", pytest.approx(1.06)),
        ("review", 60),
        ("training", 5 * 3 * 2),
        ("evaluation", 0.5 * 2 * 2),
    ]
    assert found.spent == pytest.approx(93.06)
    assert (found.unknown, found.missing, found.not_made) == ((), (), ())
    # One sum stands for both.
    flat = make_recipe({**TOKEN_PRICES, "prices.training": 500.0})
    assert [(entry.step, entry.amount) for entry in ledger(flat, run).entries][1:] == [("training and evaluation", 500)]


def test_what_a_student_of_an_api_costs(made: Callable[..., Run], make_recipe: MakeRecipe) -> None:
    recipe = make_recipe({**TOKEN_PRICES, "student": {"openai": {"model": "gpt"}}, "prices.trained_tokens": 25.0})
    run = made(recipe, student=(1, {"records": 10, "trained_tokens": 200_000}), evaluation=(1, {}))
    measured(run)
    columns = {"student_prompt_tokens": [100_000, 300_000], "student_completion_tokens": [1_000, 2_000]}
    run.storage.write("evaluation/predictions.parquet", write_table(pyarrow.table(columns), {"holds": "predictions"}))
    found = ledger(recipe, run)
    assert of(found, "training").amount == 5
    assert of(found, "evaluation").amount == pytest.approx(0.4 + 0.009)
    untold = made(recipe, student=(1, {"records": 10}))
    assert of(ledger(recipe, untold), "training").amount is None
    assert "did not tell" in of(ledger(recipe, untold), "training").note


def test_a_price_that_is_missing_is_named_and_not_free(made: Callable[..., Run], make_recipe: MakeRecipe) -> None:
    recipe = make_recipe({**TOKEN_PRICES, "prices.student_output": None, "prices.monthly_requests": 1000})
    run = made(recipe, capture=(1, CAPTURED), dataset=(1, {}), student=(5, {"workers": 3}), evaluation=(0.5, {}))
    measured(run)
    found = ledger(recipe, run, review_minutes=30)
    assert found.spent == pytest.approx(1.06)
    assert found.unknown == ("review", "training", "evaluation")
    assert found.missing == ("prices.reviewer_hour", "prices.cpu_hour")
    assert found.serving is not None
    assert found.serving.teacher == pytest.approx(1060)
    assert (found.serving.student, found.serving.payback) == (None, None)
    assert found.serving.missing == ("prices.student_output",)
    # A one-off cost that is only partly known pays nothing back.
    known = make_recipe({**TOKEN_PRICES, "prices.monthly_requests": 1000})
    serving = ledger(known, run).serving
    assert serving is not None
    assert serving.payback is not None
    assert (serving.payback.one_off, serving.payback.partial.payback_days) == (None, None)


def test_serving_and_payback(made: Callable[..., Run], make_recipe: MakeRecipe) -> None:
    recipe = make_recipe({**TOKEN_PRICES, **HOURS, "prices.monthly_requests": 2_000_000})
    run = made(recipe, capture=(1, CAPTURED))
    before = ledger(recipe, run).serving
    assert before is not None
    assert (before.teacher, before.student, before.payback) == (pytest.approx(1_060), None, None)
    run = made(recipe, capture=(1, CAPTURED), dataset=(1, {}), student=(10, {"workers": 2}), evaluation=(1, {}))
    measured(run)
    found = ledger(recipe, run)
    assert found.spent == pytest.approx(1.06 + 10 + 0.5)
    assert found.serving is not None
    paid = found.serving.payback
    assert paid is not None
    assert (paid.teacher, paid.student) == (pytest.approx(1_060), pytest.approx(99))
    assert paid.partial.coverage == 0.75
    assert paid.partial.cascade == pytest.approx(99 + 265)
    assert paid.partial.monthly_saving == pytest.approx(2 * (1_060 - 364))
    assert paid.partial.payback_days == pytest.approx(11.56 / 1_392 * 365.25 / 12)
    assert Ledger.model_validate_json(found.model_dump_json()) == found


def test_the_command(made: Callable[..., Run], make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe({**TOKEN_PRICES, "prices.monthly_requests": 2_000_000, "prices.currency": "EUR"})
    run = made(recipe, capture=(1, CAPTURED), dataset=(1, {}), student=(10, {"workers": 2}), evaluation=(1, {}))
    measured(run)
    as_json = CliRunner().invoke(app, ["cost", run.uri, "--json"])
    assert Ledger.model_validate_json(as_json.stdout) == ledger(recipe, run)
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    for words in ([run.uri], [str(tmp_path / "recipe.yaml"), "--run", run.uri]):
        done = CliRunner().invoke(app, ["cost", *words])
        assert done.exit_code == 0, done.output
        told = " ".join(done.stdout.split())
        assert "capture 1.06 100,000 prompt tokens × 10.00 a million + 2,000 completion tokens × 30.00 a" in told
        assert "training not known 20.00 hours of 2 workers on CPUs × ? an hour" in told
        assert "Not given in the recipe: `prices.cpu_hour`. What depends on a missing" in told
        assert "cascade, 75% by the student" in told
    # Before anything was made.
    done = CliRunner().invoke(app, ["cost", str(tmp_path / "recipe.yaml"), "--run", str(tmp_path / "none")])
    assert (done.exit_code, "spent 0.00" in " ".join(done.stdout.split())) == (0, True)


def test_a_damaged_report_is_a_sentence(made: Callable[..., Run], make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(TOKEN_PRICES)
    run = made(recipe, evaluation=(1, {}))
    run.storage.write("evaluation/report.json", b'{"spending": {}}')
    with pytest.raises(UserError, match="run `stillhouse evaluate` again"):
        ledger(recipe, run)


def test_the_real_reports_numbers_are_found(make_recipe: MakeRecipe) -> None:
    """The ledger reads a few fields of the report by name; they are where the report has them."""
    from stillhouse.cost.ledger import _Measured
    from stillhouse.report import Report

    spending, release = (Report.model_fields[name].annotation for name in ("spending", "release"))
    for part, names in ((spending, ("teacher_tokens", "student_tokens")), (release, ("fallback_rate",))):
        wanted: Any = part
        assert set(names) <= set(wanted.model_fields)
    assert set(_Measured.model_fields) <= set(Report.model_fields)
