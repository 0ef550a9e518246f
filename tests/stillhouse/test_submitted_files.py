"""What a submitted job takes along."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stillhouse import lineage, submit
from stillhouse.curation.user_function import load
from stillhouse.errors import UserError
from stillhouse.recipe import Recipe
from stillhouse.recipe_file import dump_recipe, load_recipe


@pytest.fixture
def packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_recipe: Callable[..., Recipe]
) -> Callable[..., tuple[Recipe, Recipe]]:
    """A recipe with changes as it stands here, and as the job finds it."""
    monkeypatch.setattr(submit, "_PACKAGES", ())
    (tmp_path / "here").mkdir()
    (tmp_path / "job").mkdir()
    (tmp_path / "here" / "data.jsonl").write_text('{"text": "fine", "label": "positive"}\n')

    def pack(changes: dict[str, Any]) -> tuple[Recipe, Recipe]:
        recipe = tmp_path / "here" / "recipe.yaml"
        recipe.write_text(dump_recipe(make_recipe({"data.path": "data.jsonl", **changes})))
        submit._pack(recipe, tmp_path / "job")
        return load_recipe(recipe), load_recipe(tmp_path / "job" / "recipe.yaml")

    return pack


def test_the_data_and_a_filter_of_the_users_own(packed: Any, tmp_path: Path) -> None:
    # Called like the package of the code, which must not be replaced.
    (tmp_path / "here" / "stillhouse.py").write_text("def keep(record):\n    return 'mine'\n")
    here, there = packed({"curation.filters.python": "stillhouse:keep"})
    assert there.data.path == str(tmp_path / "job" / "data.jsonl")
    assert there.curation.filters.python == f"{tmp_path}/job/filters/stillhouse.py:keep"
    assert load(there.curation.filters.python)({}) == "mine"
    assert lineage._of_function(there) == lineage._of_function(here), "the dataset does not become stale by it"


def test_what_is_installed_stays_where_it_is(packed: Any, tmp_path: Path) -> None:
    _, there = packed({"curation.filters.python": "json:dumps"})
    assert there.curation.filters.python == "json:dumps"
    assert not (tmp_path / "job" / "filters").exists()


def test_a_filter_that_is_not_there(packed: Any) -> None:
    with pytest.raises(UserError, match=r"curation.filters.python: gone\.py:keep cannot be loaded: .* does not exist"):
        packed({"curation.filters.python": "gone.py:keep"})
