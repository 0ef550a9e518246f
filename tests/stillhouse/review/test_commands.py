"""`stillhouse review` without its page."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import pytest
from reviews_made import MakeRecipe, made, sentiments
from typer.testing import CliRunner

from stillhouse.cli import app, main
from stillhouse.recipe_file import dump_recipe
from stillhouse.run import Run


@pytest.fixture
def uri(tmp_path: Path, make_recipe: MakeRecipe) -> str:
    recipe = make_recipe({"review.max_error": 0.5})
    return made(Run.open(str(tmp_path / "run")), recipe, sentiments(100)).uri


def test_out_to_a_file_and_back(uri: str, tmp_path: Path) -> None:
    path = tmp_path / "sample.csv"
    done = CliRunner().invoke(app, ["review", uri, "--export", str(path)])
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == f"{path}: 12 records to judge"
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline="")))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "verdict": "reject" if i == 0 else "accept"} for i, row in enumerate(rows))
    done = CliRunner().invoke(app, ["review", uri, "--import", str(path), "--reviewer", "ada"])
    assert done.exit_code == 0, done.output
    assert f"{path}: 12 new judgements by ada" in done.stdout
    assert "12 of 12 (11 accept, 1 reject)" in done.stdout
    assert "the upper end is at most 50.0%, and training may start" in " ".join(done.stdout.split())

    done = CliRunner().invoke(app, ["review", uri, "--status", "--json"])
    found = json.loads(done.stdout)
    assert (found["judged"], found["problem"], found["reviewers"]) == (12, None, {"ada": 12})


def test_a_recipe_in_place_of_the_run(
    uri: str, tmp_path: Path, make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own bound counts, and not the one that the run was begun with."""
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "recipe.yaml").write_text(dump_recipe(make_recipe({"review.max_error": 0.1})))
    done = CliRunner().invoke(app, ["review", str(tmp_path / "recipe.yaml"), "--run", uri, "--status"])
    assert done.exit_code == 0, done.output
    assert "`review.max_error` is 10.0%, and 12 records show" in done.stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--json"], "--json goes with --status"),
        (["--status", "--export", "x.csv"], "--export, --import and --status are three things to do"),
        (["--import", "x.csv"], "--import needs --reviewer: say whose judgements the file holds"),
        (["--import", "x.csv", "--reviewer", "ada"], "x.csv does not exist"),
        (["--import", "x.csv", "--reviewer", " "], "a reviewer's name has 1 to 64 printable characters"),
        (["--export", "x.xlsx"], "x.xlsx is neither a .csv nor a .jsonl file"),
    ],
)
def test_a_mistake_in_the_words(
    uri: str, words: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["stillhouse", "review", uri, *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert sentence in line


def test_a_run_without_a_dataset_is_told_before_a_page_starts(
    tmp_path: Path, make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run.open(str(tmp_path / "run"))
    run.begin(make_recipe())
    monkeypatch.setattr(sys, "argv", ["stillhouse", "review", run.uri])
    with pytest.raises(SystemExit):
        main()
    assert "has no finished dataset: run `stillhouse curate` first" in capsys.readouterr().err
