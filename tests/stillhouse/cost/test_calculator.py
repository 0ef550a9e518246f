"""`stillhouse cost` without a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stillhouse.cli import app
from stillhouse.cost.calculator import plan, worth
from stillhouse.errors import UserError

KNOWN = {"queries": 1e6, "tokens": 1000.0, "teacher_price": 30.0, "student_price": 2.0, "once": 700.0, "coverage": 0.7}


def words(**options: object) -> list[str]:
    return ["cost", *(word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value)))]


def test_the_known_example() -> None:
    done = CliRunner().invoke(app, words(**{**KNOWN, "queries": "1e6"}))
    assert done.exit_code == 0, done.output
    rows = {line.split("  ")[0]: line.split()[-3:] for line in done.stdout.splitlines()}
    assert rows["a month"] == ["30,000.00", "2,000.00", "11,000.00"]
    assert rows["saved a month"][1:] == ["28,000.00", "19,000.00"]
    told = " ".join(done.stdout.split())
    assert "18 hours 27 hours" in told
    assert "If a fallback cost the teacher alone, 70% would save 19,600.00 a month." in told
    assert "answers more than 6.7% alone" in told


def test_for_a_program() -> None:
    done = CliRunner().invoke(app, [*words(**KNOWN), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["payback"]
    assert found["full"]["monthly_saving"] == 28_000
    assert 19_000 <= round(found["partial"]["monthly_saving"]) <= found["partial"]["monthly_saving_if_routed"] <= 20_000
    assert found["full"]["payback_days"] < 1


def test_completions_at_a_price_of_their_own() -> None:
    found = worth(plan({**KNOWN, "output_tokens": 100.0, "teacher_output_price": 60.0})).payback
    assert (found.teacher, found.student) == (900 * 30 + 100 * 60, 2_000)
    # Without one they cost what prompts do, and 70% is the default.
    alike = worth(plan({name: value for name, value in KNOWN.items() if name != "coverage"} | {"output_tokens": 100.0}))
    assert alike.payback == worth(plan(KNOWN)).payback


def test_what_does_not_pay() -> None:
    def told(**changes: object) -> str:
        return " ".join(CliRunner().invoke(app, words(**{**KNOWN, **changes})).stdout.split())

    assert "It does not pay: the student costs no less than the teacher." in told(student_price=30)
    assert "It does not pay at 70%." in told(student_price=25)


def test_without_a_one_off_cost_the_payback_is_not_known() -> None:
    done = CliRunner().invoke(app, words(**{name: value for name, value in KNOWN.items() if name != "once"}))
    assert "is not known without the whole one-off cost" in done.stdout
    assert "paid back" not in done.stdout


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"coverage": 1.2}, "--coverage is 1.2: input should be less than or equal to 1"),
        ({"queries": 0.0}, "--queries is 0.0: input should be greater than 0"),
        ({"teacher_price": float("nan")}, "--teacher-price is nan: input should be a finite number"),
        ({"student_price": -1.0}, "--student-price is -1.0: input should be greater than or equal to 0"),
        ({"teacher_output_price": 3.0}, "--teacher-output-price needs --output-tokens"),
        ({"output_tokens": 1001.0}, "--output-tokens is 1001, and a request has 1000 tokens in all"),
        ({"currency": ""}, "--currency is : string should have at least 1 character"),
    ],
)
def test_a_mistake_is_one_sentence(changes: dict[str, float | str], sentence: str) -> None:
    with pytest.raises(UserError) as told:
        plan({**KNOWN, **changes})
    assert sentence in str(told.value)
    assert "\n" not in str(told.value)


def test_words_that_do_not_go_together() -> None:
    def told(*given: str) -> str:
        return str(CliRunner().invoke(app, ["cost", *given]).exception)

    assert "a calculation needs --queries, --tokens, --teacher-price, --student-price" in told()
    assert "a calculation needs --student-price; or name" in told(*words(queries=1, tokens=1, teacher_price=1)[1:])
    assert "--once is for a calculation without a run" in told("runs/some", "--once", "3")
    assert "--run goes with a recipe" in told("--run", "runs/some")


def test_the_documentation_shows_what_the_command_prints() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "cost.md").read_text(encoding="utf-8")
    command, *shown = page.split("```console\n$ stillhouse ")[1].split("```")[0].splitlines()
    done = CliRunner().invoke(app, command.split())
    assert [line.rstrip() for line in done.stdout.splitlines()] == shown
