"""The user's own filter: where it is looked for, and when it is another one."""

from __future__ import annotations

from pathlib import Path

import pytest

from stillhouse.curation.user_function import anchored, fingerprint, load
from stillhouse.errors import UserError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "nothing"))  # takes the path back afterwards
    (tmp_path / "mine.py").write_text(
        "from mine_too import word\n\ndef keep(record):\n    return record['id'] == word\n"
    )
    (tmp_path / "mine_too.py").write_text("word = 'a'\n")
    return tmp_path


@pytest.mark.parametrize("spec", ["mine:keep", "mine.py:keep", "./mine.py:keep"])
def test_a_file_in_the_working_directory_and_what_lies_beside_it(folder: Path, spec: str) -> None:
    keep = load(spec)
    assert keep({"id": "a"})
    assert not keep({"id": "b"})


def test_a_file_in_a_folder_below_and_by_its_whole_path(folder: Path) -> None:
    (folder / "below").mkdir()
    (folder / "below" / "own.py").write_text("def keep(record):\n    return 'below'\n")
    for spec in ("below.own:keep", "below/own.py:keep", f"{folder}/below/own.py:keep"):
        assert load(spec)({}) == "below"


def test_a_file_that_is_called_like_a_library(folder: Path) -> None:
    (folder / "json.py").write_text("def keep(record):\n    return 'mine'\n")
    assert load("json:keep")({}) == "mine"
    import json

    assert json.loads("1") == 1


def test_an_installed_module() -> None:
    assert load("json:dumps")({}) == "{}"
    assert len(fingerprint("json:dumps")) == 64


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("mine:other", "mine has no function 'other'"),
        ("mine_too:word", "mine_too has no function 'word'"),
        ("nowhere:keep", "ModuleNotFoundError: No module named 'nowhere'"),
        ("nowhere.py:keep", "FileNotFoundError"),
        ("broken:keep", r"SyntaxError: .*\(broken.py, line 1\)"),
    ],
)
def test_what_cannot_be_loaded(folder: Path, spec: str, told: str) -> None:
    (folder / "broken.py").write_text("def keep(:\n")
    with pytest.raises(UserError, match=f"curation.filters.python: {spec} cannot be loaded: .*{told}") as caught:
        load(spec)
    assert "\n" not in str(caught.value)


def test_the_fingerprint_is_that_of_the_source(folder: Path) -> None:
    first = fingerprint("mine:keep")
    assert fingerprint(f"{folder}/mine.py:keep") == first
    assert fingerprint("mine:other") != first
    (folder / "mine.py").write_text("def keep(record):\n    return True\n")
    assert fingerprint("mine:keep") != first
    for spec, told in (("nowhere:keep", "neither a file here nor an installed"), ("no.py:keep", "does not exist")):
        with pytest.raises(UserError, match=told):
            fingerprint(spec)


def test_a_file_beside_the_recipe_is_taken_first(folder: Path) -> None:
    assert anchored("mine:keep", folder) == f"{folder}/mine.py:keep"
    assert anchored("mine.py:keep", folder) == f"{folder}/mine.py:keep"
    assert anchored("json:dumps", folder) == "json:dumps"
    assert anchored("other.py:keep", folder) == "other.py:keep"
