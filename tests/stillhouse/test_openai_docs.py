"""The page on API students shows a recipe that is one, and formats that there are."""

from __future__ import annotations

import re
from pathlib import Path

from stillhouse.export.write import FORMATS
from stillhouse.recipe_file import parse_recipe

PAGE = (Path(__file__).parents[2] / "docs" / "openai_student.md").read_text(encoding="utf-8")


def test_the_recipe_on_the_page_is_a_recipe() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    recipe = parse_recipe(block, source="the page")
    assert recipe.student.openai is not None
    assert recipe.student.openai.suffix == recipe.name


def test_every_format_has_its_row() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert tuple(rows) == FORMATS
