"""The recipe's reference in docs/ is the one that the models say."""

from pathlib import Path

from stillhouse.recipe import Engine, Recipe
from stillhouse.reference import reference


def test_the_page_in_docs_is_up_to_date() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "recipe.md"
    assert page.read_text(encoding="utf-8") == reference(), "run `python -m stillhouse.reference > docs/recipe.md`"


def test_every_key_is_there_with_its_limits() -> None:
    page = reference()
    for name in [*Recipe.model_fields, *Engine.model_fields]:
        assert f"| `{name}` |" in page
    assert "number (> 0, < 1)" in page
    assert "## `student.engine`" in page
