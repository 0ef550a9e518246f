"""Runs and manifests: a step is finished when its manifest is there, and up to date when its hashes match."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stillhouse.errors import StorageError, UserError
from stillhouse.recipe import Recipe
from stillhouse.run import Manifest, Run, cache_folder
from stillhouse.storage import LocalStorage

MakeRecipe = Callable[..., Recipe]


@pytest.fixture(params=["local", "s3"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    return Run.open(request.getfixturevalue("s3")() if request.param == "s3" else str(tmp_path / "run"))


@pytest.fixture
def recipe(make_recipe: MakeRecipe) -> Recipe:
    return make_recipe()


def finish(run: Run, recipe: Recipe, files: dict[str, bytes], **inputs: str) -> Manifest:
    """A finished student made of `files`."""
    for name, content in files.items():
        run.storage.write(f"student/{name}", content)
    return run.commit("student", recipe=recipe, inputs=inputs, counts={"steps": 3}, began=time.monotonic())


def test_manifest_says_what_a_step_holds(run: Run, recipe: Recipe) -> None:
    assert run.manifest("student") is None
    made = finish(run, recipe, {"config.json": b"{}", "inner/weights": b"abc"}, dataset="1")
    assert run.manifest("student") == made
    assert [(entry.path, entry.size) for entry in made.files] == [("config.json", 2), ("inner/weights", 3)]
    assert made.files[1].sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert made.counts == {"steps": 3}
    assert made.inputs == {"dataset": "1"}
    assert made.made_by["seed"] == "0"
    assert made.made_by["ray"]


def test_content_hash_depends_on_content_alone(run: Run, recipe: Recipe) -> None:
    first = finish(run, recipe, {"a": b"1", "b": b"2"}, dataset="x").content_hash()
    # Committed again over its own manifest, from other inputs and at another time.
    assert finish(run, recipe, {"a": b"1", "b": b"2"}, dataset="y").content_hash() == first
    changed = finish(run, recipe, {"a": b"1", "b": b"3"}, dataset="y").content_hash()
    renamed = finish(run, recipe, {"c": b"3"}, dataset="y").content_hash()
    assert len({first, changed, renamed}) == 3


def test_status(run: Run, recipe: Recipe) -> None:
    assert run.status("student", {"dataset": "1"}).state == "missing"
    run.storage.write("student/half", b"x")
    assert run.status("student", {"dataset": "1"}).state == "partial"
    finish(run, recipe, {}, dataset="1", seed="0", old="1")
    assert run.status("student", {"dataset": "1", "seed": "0", "old": "1"}).state == "done"
    stale = run.status("student", {"dataset": "2", "seed": "0", "new": "1"})
    assert (stale.state, stale.why) == ("stale", "changed since: dataset, new, old")


def test_nothing_is_finished_before_the_last_write(
    tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.open(str(tmp_path))
    write = LocalStorage.write

    def full(self: LocalStorage, key: str, data: bytes) -> None:
        if key.endswith("manifest.json"):
            raise StorageError("no space left")
        write(self, key, data)

    monkeypatch.setattr(LocalStorage, "write", full)
    with pytest.raises(StorageError):
        finish(run, recipe, {"weights": b"x"})
    assert run.manifest("student") is None
    assert run.status("student", {}).state == "partial"


def test_clear_removes_the_manifest_first(run: Run, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(run, recipe, {"config.json": b"{}", "weights": b"abc"})

    def cut_off(_prefix: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run.storage, "delete_folder", cut_off)
        with pytest.raises(KeyboardInterrupt):
            run.clear("student")
    assert run.status("student", {}).state == "partial"
    run.clear("student")
    assert run.status("student", {}).state == "missing"
    run.clear("student")


def test_damaged_manifest(run: Run, recipe: Recipe) -> None:
    run.storage.write("student/manifest.json", b'{"step": "student"')
    for use in (lambda: run.manifest("student"), lambda: run.fetch("student"), lambda: run.status("student", {})):
        with pytest.raises(UserError, match=r"student/manifest\.json is damaged: remove the folder student"):
            use()


def test_a_step_that_must_be_finished_names_its_command(run: Run) -> None:
    with pytest.raises(UserError, match="has no finished student: run `stillhouse train` first"):
        run.finished("student", "train")
    with pytest.raises(UserError, match="has no finished student"):
        run.fetch("student")


def test_a_run_keeps_its_recipe(run: Run, recipe: Recipe, make_recipe: MakeRecipe) -> None:
    with pytest.raises(UserError, match=r"is not a run: it holds no recipe\.yaml"):
        run.recipe()
    run.begin(recipe)
    assert run.recipe() == recipe
    changed = make_recipe({"seed": 7})
    run.begin(changed)
    assert run.recipe() == changed


def test_a_run_of_another_recipe_is_refused_and_left_alone(run: Run, recipe: Recipe, make_recipe: MakeRecipe) -> None:
    run.begin(recipe)
    with pytest.raises(UserError, match="was made by the recipe 'tiny', not by 'other': choose another folder"):
        run.begin(make_recipe({"name": "other"}))
    assert run.recipe() == recipe


def test_damaged_snapshot_is_named(run: Run, recipe: Recipe) -> None:
    run.storage.write("recipe.yaml", b"name: tiny\n")
    with pytest.raises(UserError, match=r"recipe\.yaml has 3 problems"):
        run.begin(recipe)


def test_pickled_run(run: Run, recipe: Recipe) -> None:
    run.begin(recipe)
    copy = pickle.loads(pickle.dumps(run))
    made = finish(copy, recipe, {"weights": b"x"})
    assert copy.uri == run.uri
    assert run.manifest("student") == made


def test_fetch_gives_the_files(run: Run, recipe: Recipe, cache: Path) -> None:
    finish(run, recipe, {"config.json": b"{}", "inner/weights": b"abc"})
    folder = run.fetch("student")
    assert (folder / "config.json").read_bytes() == b"{}"
    assert (folder / "inner" / "weights").read_bytes() == b"abc"


def test_a_local_step_is_not_copied(tmp_path: Path, recipe: Recipe, cache: Path) -> None:
    run = Run.open(str(tmp_path / "run"))
    finish(run, recipe, {"weights": b"abc"})
    assert run.fetch("student") == tmp_path / "run" / "student"
    assert not cache.exists()


@pytest.fixture
def remote(s3: Callable[[], str], cache: Path) -> Run:
    return Run.open(s3())


def test_fetched_once_for_each_content(remote: Run, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(remote, recipe, {"weights": b"1"})
    first = remote.fetch("student")
    with monkeypatch.context() as patch:
        patch.setattr(remote.storage, "download", None)
        assert remote.fetch("student") == first
    finish(remote, recipe, {"weights": b"2"})
    second = remote.fetch("student")
    assert second != first
    assert [(folder / "weights").read_bytes() for folder in (first, second)] == [b"1", b"2"]


def test_a_download_that_breaks_leaves_nothing(
    remote: Run, recipe: Recipe, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(remote, recipe, {"weights": b"1", "tokenizer.json": b"2"})
    download = remote.storage.download

    def half(prefix: str, folder: Path) -> Path:
        download(prefix, folder)
        raise StorageError("the connection broke")

    with monkeypatch.context() as patch:
        patch.setattr(remote.storage, "download", half)
        with pytest.raises(StorageError):
            remote.fetch("student")
    assert list((cache / "runs").iterdir()) == []
    assert (remote.fetch("student") / "weights").read_bytes() == b"1"


@pytest.mark.parametrize("damage", ["lost", "changed"])
def test_a_step_that_is_not_what_its_manifest_says(remote: Run, recipe: Recipe, cache: Path, damage: str) -> None:
    finish(remote, recipe, {"weights": b"1", "tokenizer.json": b"2"})
    if damage == "lost":
        remote.storage.delete("student/weights")
    else:
        remote.storage.write("student/weights", b"3")
    with pytest.raises(UserError, match="student/weights is not what the manifest says: make it again"):
        remote.fetch("student")
    assert list((cache / "runs").iterdir()) == []


def test_cache_folder_follows_the_environment(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder("runs") == cache / "runs"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder("runs") == Path.home() / ".cache" / "stillhouse" / "runs"
