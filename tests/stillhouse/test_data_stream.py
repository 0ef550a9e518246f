"""A million rows are streamed: neither the file nor the records are ever in memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stillhouse.data import Records
from stillhouse.errors import UserError
from stillhouse.recipe import Recipe
from stillhouse.recipe_file import dump_recipe
from stillhouse.source import MAX_ROW_BYTES

MakeRecipe = Callable[..., Recipe]

MEASURE = """
import resource, sys
from stillhouse.data import Records
from stillhouse.recipe_file import load_recipe

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

small, large = (load_recipe(path) for path in sys.argv[1:])
sum(1 for _ in Records(small))
before = peak()
records = Records(large)
print(len(records), sum(1 for _ in records), peak() - before)
"""


@pytest.mark.slow
def test_a_million_rows_are_never_in_memory(tmp_path: Path, make_recipe: MakeRecipe) -> None:
    recipes = []
    for rows in (1_000, 1_000_000):
        data = tmp_path / f"{rows}.jsonl"
        with data.open("w", encoding="utf-8") as file:
            file.writelines(f'{{"text": "review number {i} of a film", "label": "positive"}}\n' for i in range(rows))
        path = tmp_path / f"{rows}.yaml"
        path.write_text(dump_recipe(make_recipe({"data.path": str(data)})), encoding="utf-8")
        recipes.append(str(path))
    words = [sys.executable, "-c", MEASURE, *recipes]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=600)
    count, streamed, grown_mib = map(int, done.stdout.split())
    assert count == streamed == 1_000_000
    # Eight bytes a row are kept, twice while they are sorted; the file has 60 MiB, its records have ten times that.
    assert grown_mib < 40


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_row_without_end_is_refused_before_it_fills_the_memory(
    tmp_path: Path, make_recipe: MakeRecipe, suffix: str
) -> None:
    path = tmp_path / f"data{suffix}"
    with path.open("wb") as file:
        file.write(b"text,label\n" if suffix == ".csv" else b'{"text": "fine", "label": ""}\n')
        file.truncate(MAX_ROW_BYTES * 3)  # a hole of zeros, which takes no room on the disk
    with pytest.raises(UserError, match=r"line 2 is longer than 64 MiB"):
        Records(make_recipe({"data.path": str(path)}))


def test_the_same_id_twice_far_apart(tmp_path: Path, make_recipe: MakeRecipe) -> None:
    path = tmp_path / "data.jsonl"
    ids = [*range(5000), 17]
    path.write_text("".join(f'{{"id": "r{i}", "text": "review {i}", "label": ""}}\n' for i in ids))
    with pytest.raises(UserError, match=r"line 18 and line 5001 have the same id 'r17'"):
        Records(make_recipe({"data.path": str(path)}))


def test_repeated_rows_without_ids_get_ids_that_stay_theirs(tmp_path: Path, make_recipe: MakeRecipe) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "fine", "label": ""}\n' * 3 + '{"text": "dull", "label": ""}\n')
    records = Records(make_recipe({"data.path": str(path)}))
    first, again = list(records), list(records)
    assert first == again
    assert len({record.id for record in first}) == 4
    # One more row before them changes nothing of the others' ids.
    path.write_text('{"text": "new", "label": ""}\n' + path.read_text())
    more = list(Records(make_recipe({"data.path": str(path)})))
    assert [record.id for record in more[1:]] == [record.id for record in first]
