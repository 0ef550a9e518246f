"""Reading the user's data, and what is said of data that cannot be used."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest

from stillhouse.data import Record, Records, data_hash
from stillhouse.errors import UserError
from stillhouse.recipe import Recipe
from stillhouse.recipe_file import load_recipe
from stillhouse.storage import open_storage

MakeRecipe = Callable[..., Recipe]
Load = Callable[..., Any]

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "movie_reviews" / "recipe.yaml"
ROWS: list[dict[str, Any]] = [
    {"text": "fine", "label": "positive", "year": 2001, "seen": True},
    {"text": "dull, “very”\ndull", "label": "negative", "year": 2002, "seen": False},
    {"text": "fine", "label": None, "year": 2001, "seen": True},
]


def list_records(recipe: Recipe) -> list[Record]:
    return list(Records(recipe))


def written(folder: Path, suffix: str, rows: list[dict[str, Any]]) -> Path:
    path = folder / f"data{suffix}"
    if suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    elif suffix == ".csv":
        pyarrow.csv.write_csv(pyarrow.Table.from_pylist(rows), path)
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


@pytest.fixture
def load(tmp_path: Path, make_recipe: MakeRecipe) -> Load:
    """Records of a file with the given content."""

    def of(content: str | bytes, suffix: str = ".jsonl", **changes: Any) -> Any:
        path = tmp_path / f"data{suffix}"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        named = {f"data.{key}": value for key, value in changes.items()}
        return list_records(make_recipe({"data.path": str(path), **named}))

    return of


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_every_format_gives_the_same_records(tmp_path: Path, make_recipe: MakeRecipe, suffix: str) -> None:
    path = written(tmp_path, suffix, ROWS)
    records = list_records(make_recipe({"data.path": str(path)}))
    assert [record.fields for record in records] == [{"text": row["text"]} for row in ROWS]
    assert [record.gold for record in records] == ["positive", "negative", None]
    assert [record.index for record in records] == [0, 1, 2]
    of_json = list_records(make_recipe({"data.path": str(written(tmp_path, ".jsonl", ROWS))}))
    assert [record.id for record in records] == [record.id for record in of_json]


def test_data_on_s3(s3: Callable[[], str], tmp_path: Path, make_recipe: MakeRecipe) -> None:
    storage = open_storage(s3())
    storage.write("in/data.jsonl", b'{"text": "fine", "label": "positive"}\n')
    (record,) = list_records(make_recipe({"data.path": f"{storage.uri}/in/data.jsonl"}))
    assert record.gold == "positive"
    with pytest.raises(UserError, match=rf"data\.path: {storage.uri}/in/none\.jsonl does not exist"):
        list_records(make_recipe({"data.path": f"{storage.uri}/in/none.jsonl"}))


def test_data_in_a_package() -> None:
    recipe = load_recipe(EXAMPLE)
    records = list_records(recipe)
    assert len(records) == recipe.data.limit
    assert {record.gold for record in records} == {"positive", "negative"}
    assert all(record.fields["text"] for record in records)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("pkg://no_such_package/x.csv", "needs the Python package 'no_such_package', which is not installed"),
        ("pkg://stillhouse/none.csv", "the package 'stillhouse' holds no file 'none.csv'"),
        ("pkg://stillhouse/../pyproject.toml", "holds no file '../pyproject.toml'"),
        ("pkg://stillhouse", "holds no file ''"),
        ("pkg://../etc/passwd", "which is not installed"),
    ],
)
def test_packages_without_the_file(make_recipe: MakeRecipe, path: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        list_records(make_recipe({"data.path": path}))
    assert told in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path, make_recipe: MakeRecipe) -> None:
    with pytest.raises(UserError, match=rf"data\.path: {tmp_path}/none\.csv does not exist"):
        list_records(make_recipe({"data.path": str(tmp_path / "none.csv")}))
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        list_records(make_recipe({"data.path": str(tmp_path)}))


GOOD = '{"text": "fine", "label": "positive"}\n'


@pytest.mark.parametrize(
    ("suffix", "content", "told"),
    [
        (".jsonl", "", "holds no rows"),
        (".jsonl", "\n\n", "holds no rows"),
        (".csv", "", "holds no rows"),
        (".csv", "text,label\n", "holds no rows"),
        (".parquet", "", "is not Parquet"),
        (".parquet", "text,label\n", "is not Parquet"),
        (".txt", "fine\n", "must end in .jsonl, .csv or .parquet"),
        (".jsonl", GOOD + "\n" + GOOD + "{text: fine}\n", "line 4 is not JSON: Expecting property name"),
        (".jsonl", GOOD + '"fine"\n', "line 2 is not a JSON object"),
        (".jsonl", GOOD + '{"label": "positive"}\n', "line 2 has no column 'text'; it has label"),
        (".jsonl", GOOD + '{"text": null, "label": "positive"}\n', "line 2 has nothing in the column 'text'"),
        (".csv", "text,label\nfine,positive\n ,positive\n", "line 3 has nothing in the column 'text'"),
        (".jsonl", GOOD + '{"text": "so", "label": "soso"}\n', "line 2: the label 'soso' is none of the choices"),
        (".jsonl", GOOD.encode() + b'{"text": "caf\xe9"}\n', "line 2 is not UTF-8"),
        (".jsonl", GOOD + '{"text": "\\ud83d", "label": ""}\n', "line 2 holds half of a character"),
        (".csv", "text,label\nfine,positive\nfine\n", "line 3 has fewer columns than the header"),
        (".csv", "text,label\nfine,positive\nfine,positive,new\n", "line 3 has more columns than the header"),
        (".csv", 'text,label\n"a\nb",positive\nfine,soso\n', "line 4: the label 'soso' is none of the choices"),
        (".csv", "review,label\nfine,positive\n", "line 2 has no column 'text'; it has review, label"),
    ],
)
def test_bad_content(load: Load, suffix: str, content: str | bytes, told: str) -> None:
    with pytest.raises(UserError) as caught:
        load(content, suffix)
    assert told in str(caught.value)
    assert str(caught.value).startswith("data.path: /")
    assert "\n" not in str(caught.value)


def test_damaged_parquet_is_a_sentence(load: Load, tmp_path: Path) -> None:
    whole = written(tmp_path, ".parquet", [{"text": f"text {i}", "label": "positive"} for i in range(500)]).read_bytes()
    for cut in (len(whole) - 9, len(whole) // 2):
        with pytest.raises(UserError, match="is not Parquet"):
            load(whole[:cut], ".parquet")
    with pytest.raises(UserError, match="is not Parquet"):
        load(whole[:4] + os.urandom(200) + whole[204:], ".parquet")
    with pytest.raises(UserError, match="is not Parquet"):
        load(whole[:-200] + b"\xff" * 190 + whole[-10:], ".parquet")


def test_a_row_without_a_label_is_not_graded(load: Load) -> None:
    records = load('{"text": "a", "label": ""}\n{"text": "b", "label": null}\n{"text": "c", "label": " "}\n')
    assert [record.gold for record in records] == [None, None, None]


def test_labels_are_mapped(load: Load) -> None:
    content = '{"text": "a", "label": 0}\n{"text": "b", "label": "1"}\n{"text": "c", "label": "positive"}\n'
    records = load(content, labels={"0": "negative", "1": " positive"})
    assert [record.gold for record in records] == ["negative", "positive", "positive"]
    with pytest.raises(UserError, match=r"line 1: the label '0' is none of the choices 'positive', 'negative': map it"):
        load(content, labels={"1": "positive"})


def test_json_labels_may_be_objects(tmp_path: Path, make_recipe: MakeRecipe) -> None:
    path = tmp_path / "data.jsonl"
    task = {
        "task.kind": "json",
        "task.choices": [],
        "task.json_schema": {"type": "object", "required": ["city"]},
        "data.path": str(path),
    }
    path.write_text(
        '{"text": "a", "label": {"city": "Köln", "big": true}}\n{"text": "b", "label": "{\\"city\\": 1}"}\n'
    )
    records = list_records(make_recipe(task))
    assert [record.gold for record in records] == ['{"big":true,"city":"Köln"}', '{"city":1}']
    path.write_text('{"text": "a", "label": {"town": "Köln"}}\n')
    with pytest.raises(UserError, match=r"line 1: the label .* is not JSON that satisfies `task\.json_schema`"):
        list_records(make_recipe(task))


def test_where_keeps_equal_rows_of_any_type(tmp_path: Path, make_recipe: MakeRecipe) -> None:
    for suffix in (".jsonl", ".csv", ".parquet"):
        recipe = make_recipe(
            {"data.path": str(written(tmp_path, suffix, ROWS)), "data.where": {"year": "2001", "seen": "true"}}
        )
        assert [record.fields["text"] for record in list_records(recipe)] == ["fine", "fine"]
    recipe = make_recipe({"data.path": str(written(tmp_path, ".csv", ROWS)), "data.where": {"year": "1999"}})
    with pytest.raises(UserError, match=r"holds no rows where {'year': '1999'}"):
        list_records(recipe)


def test_ids_are_unique_and_do_not_depend_on_the_place(load: Load) -> None:
    rows = [json.dumps({"text": text, "label": "positive"}) for text in ("a", "b", "a", "c")]
    ids = [record.id for record in load("\n".join(rows))]
    assert len(set(ids)) == 4
    # Other rows around them, another label: the ids stay.
    assert [record.id for record in load("\n".join([rows[3], rows[0], '{"text": "a", "label": "negative"}']))] == [
        ids[3],
        ids[0],
        ids[2],
    ]


def test_an_id_column_is_taken(load: Load) -> None:
    records = load('{"id": 7, "text": "a", "label": ""}\n{"id": "x", "text": "a", "label": ""}\n')
    assert [record.id for record in records] == ["7", "x"]
    with pytest.raises(UserError, match="line 1 and line 3 have the same id '7'"):
        load('{"id": 7, "text": "a", "label": ""}\n\n{"id": "7", "text": "b", "label": ""}\n')


def test_limit_draws_with_the_seed(tmp_path: Path, make_recipe: MakeRecipe) -> None:
    path = written(tmp_path, ".jsonl", [{"text": str(i), "label": "positive"} for i in range(200)])

    def drawn(seed: int, limit: int) -> list[str]:
        records = list_records(make_recipe({"data.path": str(path), "data.limit": limit, "seed": seed}))
        assert [record.index for record in records] == list(range(len(records)))
        return [record.fields["text"] for record in records]

    assert drawn(0, 40) == drawn(0, 40)
    assert drawn(0, 40) != drawn(1, 40)
    assert len(set(drawn(0, 40))) == 40
    assert drawn(0, 40) != [str(i) for i in range(40)]
    assert [int(text) for text in drawn(3, 40)] == sorted(int(text) for text in drawn(3, 40))
    assert drawn(0, 200) == drawn(1, 500) == [str(i) for i in range(200)]


def test_hash_follows_content_and_columns_but_not_the_path(tmp_path: Path, make_recipe: MakeRecipe) -> None:
    path, copy = tmp_path / "data.jsonl", tmp_path / "copy.jsonl"
    path.write_text(GOOD)
    copy.write_text(GOOD)
    first = data_hash(make_recipe({"data.path": str(path)}))
    assert data_hash(make_recipe({"data.path": str(copy)})) == first
    assert data_hash(make_recipe({"data.path": str(path), "data.limit": 1})) != first
    copy.write_text(GOOD * 2)
    assert data_hash(make_recipe({"data.path": str(copy)})) != first
