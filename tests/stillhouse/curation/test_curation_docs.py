"""The recipe and the function that docs/curation.md shows work."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from captured import row

from stillhouse.curation.filters import filter_rows
from stillhouse.recipe import Recipe

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "curation.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.+?)```", PAGE, re.DOTALL)
    return str(found)


def test_the_recipe_on_the_page_filters(
    make_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "nothing"))  # takes the path back afterwards
    (tmp_path / "my_filters.py").write_text(block("python"))
    shown = yaml.safe_load(block("yaml"))
    assert {*shown["curation"]} <= {*make_recipe().curation.model_dump()}
    recipe = make_recipe({"task": shown["task"], "curation": shown["curation"]})

    fine = "Thank you for your message, we are going to send the parcel again tomorrow morning."
    spanish = "Gracias por su mensaje, vamos a enviar el paquete de nuevo mañana por la mañana."
    told = {
        "Too short.": "length",
        "I am sorry, but I can't help with that.": "refusals",
        spanish: "language",
        "Thank you for your damn message, we send it.": "profanity",
        "Thank you, please write to jane@example.com about it.": "pii",
        "Dear [name], we are going to send it again.": "patterns: placeholder",
        fine: None,
    }
    rows = [row(completion=text, fields={"email": "where is it?"}, text="where is it?") for text in told]
    rows.append(row(completion=fine, logprobs=[-1.0, -1.0], fields={"email": ""}))
    rows.append(row(completion=fine, fields={"email": "Automatic reply: away"}))
    rows.append(row(completion=fine, gold="other", fields={"email": ""}))
    expected = [*told.values(), "uncertainty", "python: automatic reply", "python"]
    assert [drop and drop.reason for drop in filter_rows(recipe, rows)] == expected
