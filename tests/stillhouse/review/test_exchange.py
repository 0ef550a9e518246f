"""The review without a browser: what is written, and that nothing wrong is read back."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reviews_made import JSON_TASK, TEXT_TASK, MakeRecipe, made, record, sentiments

from stillhouse.errors import UserError
from stillhouse.review.exchange import COLUMNS, guarded, read_judgements, unguarded, write_sample
from stillhouse.review.journal import JUDGEMENTS
from stillhouse.review.state import ReviewState
from stillhouse.run import Run

NASTY = ['=HYPERLINK("http://x")', "+1", "-1", "@SUM(A1)", "'=quoted", 'a "b", c;\n\tsecond line', "größte 良い 😀"]

Row = dict[str, str]


@pytest.fixture
def texts(tmp_path: Path, make_recipe: MakeRecipe) -> ReviewState:
    """A review of texts, which hold what CSV files and spreadsheets trip over."""
    recipe = make_recipe({**TEXT_TASK, "review.share": 1.0, "task.prompt": "{text}"})
    rows = [record(i, text, text=f"{text} {i}") for i, text in enumerate(NASTY * 4)]
    return ReviewState(recipe, made(Run.open(str(tmp_path / "run")), recipe, rows))


@pytest.fixture
def choices(tmp_path: Path, make_recipe: MakeRecipe) -> ReviewState:
    recipe = make_recipe()
    return ReviewState(recipe, made(Run.open(str(tmp_path / "run")), recipe, sentiments(100)))


def rows_of(path: Path) -> list[Row]:
    if path.suffix == ".csv":
        return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline="")))
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_rows(path: Path, rows: list[Row], delimiter: str = ",") -> Path:
    if path.suffix == ".csv":
        buffer = io.StringIO(newline="")
        writer = csv.DictWriter(buffer, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
        path.write_text(buffer.getvalue(), encoding="utf-8", newline="")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@given(st.text(alphabet="'=+-@\t\ra 1", max_size=6))
def test_a_guarded_cell_is_no_formula_and_comes_back(cell: str) -> None:
    assert unguarded(guarded(cell)) == cell
    assert guarded(cell)[:1] not in set("=+-@\t\r")


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_everything_goes_out_and_comes_back(texts: ReviewState, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"sample.{kind}"
    assert write_sample(texts, path) == len(texts.sample.items) == 28
    rows = rows_of(path)
    assert tuple(rows[0]) == COLUMNS
    assert [row["id"] for row in rows] == [item.id for item in texts.sample.items]
    if kind == "jsonl":
        assert {row["completion"] for row in rows} == set(NASTY)
        assert rows[0]["prompt"] == texts.sample.items[0].fields["text"]
    else:
        assert not any(cell[:1] in ("=", "+", "-", "@") for row in rows for cell in row.values())
    for i, row in enumerate(rows):
        row["verdict"] = ("accept", "Reject ", "correct", "")[i % 4]
        row["correction"] = "-5 degrees" if row["verdict"] == "correct" else ""
    assert read_judgements(texts, write_rows(path, rows), "ada") == 21
    found = ReviewState(texts.recipe, texts.run)
    assert sum("ada" in said for said in found.said.values()) == 21
    assert {each["ada"].correction for each in found.said.values()} == {None, "-5 degrees"}
    # Read again, it says nothing new.
    assert read_judgements(found, path, "ada") == 0
    assert read_judgements(found, path, "ben") == 21
    assert len(found.run.storage.list(JUDGEMENTS)) == 2


def test_what_a_spreadsheet_does_to_a_file_is_no_change(texts: ReviewState, tmp_path: Path) -> None:
    path = tmp_path / "sample.csv"
    write_sample(texts, path)
    rows = rows_of(path)
    for row in rows:
        row["completion"] = row["completion"].replace("\n", "\r\n").strip()
        row["verdict"] = "accept"
        row["note"] = "mine"
    assert read_judgements(texts, write_rows(path, rows, delimiter=";"), "ada") == 28


def test_a_json_correction_may_be_an_object(tmp_path: Path, make_recipe: MakeRecipe) -> None:
    recipe = make_recipe({**JSON_TASK, "review.share": 1.0})
    rows = [record(i, '{"name": "Ann"}') for i in range(20)]
    state = ReviewState(recipe, made(Run.open(str(tmp_path / "run")), recipe, rows))
    path = tmp_path / "sample.jsonl"
    write_sample(state, path)
    first: dict[str, Any] = dict(rows_of(path)[0])
    first |= {"verdict": "correct", "correction": {"name": "Bo", "age": 3}}
    path.write_text(json.dumps(first) + "\n\n")
    assert read_judgements(state, path, "ada") == 1
    assert state.said[first["id"]]["ada"].correction == '{"name": "Bo", "age": 3}'


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda rows: rows[1].update(id="nobody"), ":3: the record 'nobody' is not in the sample"),
        (lambda rows: rows[1].update(verdict="ok"), ":3: the verdict 'ok' is none of accept, correct, reject"),
        (lambda rows: rows[1].update(verdict="correct"), ":3: the correction is empty"),
        (lambda rows: rows[1].update(verdict="correct", correction="so so"), ":3: the correction 'so so' is none of"),
        (lambda rows: rows[1].update(verdict="accept", correction="positive"), "and the verdict is 'accept', not"),
        (lambda rows: rows[1].update(correction="positive"), "there is a correction without the verdict `correct`"),
        (lambda rows: rows[1].update(completion="other"), "has another prompt or completion in the run: export again"),
        (lambda rows: rows[1].update(content="0" * 64), "has another prompt or completion in the run: export again"),
        (lambda rows: rows.append(dict(rows[0])), r":14: the record 'r\d+' is in line 2 already"),
        (lambda rows: [row.pop("verdict") for row in rows], ":1: there is no column 'verdict'; there are id, content"),
        (lambda rows: [row.pop("content") for row in rows], ":1: there is no column 'content'"),
    ],
)
def test_one_bad_row_and_nothing_is_kept(
    choices: ReviewState, tmp_path: Path, change: Callable[[list[Row]], Any], sentence: str
) -> None:
    path = tmp_path / "sample.csv"
    write_sample(choices, path)
    rows = [{**row, "prompt": "left out"} for row in rows_of(path)]
    rows[0]["verdict"] = "accept"
    change(rows)
    with pytest.raises(UserError, match=sentence) as caught:
        read_judgements(choices, write_rows(path, rows), "ada")
    assert str(path) in str(caught.value)
    assert choices.run.storage.list(JUDGEMENTS) == []


def test_every_problem_is_told_with_its_line_up_to_twenty(texts: ReviewState, tmp_path: Path) -> None:
    path = tmp_path / "sample.csv"
    write_sample(texts, path)
    rows = [{**row, "verdict": "ok"} for row in rows_of(path)]
    with pytest.raises(UserError) as caught:
        read_judgements(texts, write_rows(path, rows), "ada")
    head, *lines = str(caught.value).splitlines()
    assert head == f"{path} has 28 problems, and nothing of it was kept:"
    assert len(lines) == 21
    assert lines[-1] == "  and 8 more"
    # The line of a row that begins behind cells of several lines.
    text = path.read_text()
    for row, line in zip(rows, lines[:20], strict=False):
        number = int(line.split(":")[-2])
        assert text.split("\n")[number - 1].startswith(f"{row['id']},")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.txt", b"", "is neither a .csv nor a .jsonl file"),
        ("a.csv", None, "does not exist"),
        ("a.csv", b"", "holds no rows"),
        ("a.csv", "id,content,verdict\nr1,x,größer".encode("latin-1"), "is not UTF-8: save it as `CSV UTF-8`"),
        ("a.csv", b'id,content,verdict\nr1,"x,accept\n', r"a\.csv:2: it is not CSV: unexpected end of data"),
        ("a.csv", b"id,content,verdict\nr1,x,accept,more\n", r"a\.csv:2: there are 4 cells, and 3 columns"),
        ("a.csv", b"id,content,verdict\nr1,x\n", r"a\.csv:2: there is no 'verdict'"),
        ("a.jsonl", b'{"id": \n', r"a\.jsonl:1: it is not JSON"),
        ("a.jsonl", b"\n[1]\n", r"a\.jsonl:2: it is no object"),
        ("a.jsonl", b'{"id": "r1", "verdict": "accept"}\n', r"a\.jsonl:1: there is no 'content'"),
    ],
)
def test_a_file_that_is_none(
    choices: ReviewState, tmp_path: Path, name: str, content: bytes | None, sentence: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        read_judgements(choices, path, "ada")


def test_a_folder_that_cannot_be_written_to(choices: ReviewState, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written: No such file or directory"):
        write_sample(choices, tmp_path / "none" / "sample.csv")
