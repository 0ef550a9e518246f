"""One contract for local folders and S3, and what each says when it refuses."""

from __future__ import annotations

import errno
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import boto3
import pytest

from stillhouse.errors import StorageError, UserError
from stillhouse.storage import Storage, open_storage


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    uri = request.getfixturevalue("s3")() if request.param == "s3" else str(tmp_path / "run")
    return open_storage(uri)


def test_what_is_written_is_read(storage: Storage) -> None:
    storage.write("student/model.safetensors", b"\x00weights")
    storage.write("student/model.safetensors", b"newer")
    assert storage.read("student/model.safetensors") == b"newer"
    assert storage.exists("student/model.safetensors")
    assert open_storage(storage.uri).read("student/model.safetensors") == b"newer"


def test_nothing_there(storage: Storage) -> None:
    with pytest.raises(KeyError):
        storage.read("capture/manifest.json")
    assert not storage.exists("capture/manifest.json")
    assert storage.list() == []
    assert storage.list("capture") == []
    storage.delete("capture/manifest.json")
    storage.delete_folder("capture")


def test_list_is_sorted_and_keeps_to_the_folder(storage: Storage) -> None:
    for key in ("capture/parts/part-1", "capture/parts/part-0", "capture/manifest.json", "captured", "recipe.yaml"):
        storage.write(key, b"x")
    assert storage.list("capture") == ["capture/manifest.json", "capture/parts/part-0", "capture/parts/part-1"]
    assert storage.list() == [*storage.list("capture"), "captured", "recipe.yaml"]


def test_delete(storage: Storage) -> None:
    for key in ("a/1", "a/b/2", "ab/3"):
        storage.write(key, b"x")
    storage.delete("a/1")
    assert storage.list() == ["a/b/2", "ab/3"]
    storage.delete_folder("a")
    assert storage.list() == ["ab/3"]


def test_upload_and_download(storage: Storage, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "inner").mkdir(parents=True)
    (source / "config.json").write_bytes(b"{}")
    (source / "inner" / "weights").write_bytes(bytes(range(256)))
    storage.upload(source, "student")
    storage.write("students/other", b"not this one")
    target = storage.download("student", tmp_path / "target")
    found = {path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*") if path.is_file()}
    assert found == {"config.json": b"{}", "inner/weights": bytes(range(256))}


@pytest.mark.parametrize("key", ["../outside", "/etc/passwd", "a/../../outside"])
def test_keys_stay_inside(storage: Storage, key: str) -> None:
    for use in (storage.read, storage.exists, storage.list, storage.delete, lambda key: storage.write(key, b"x")):
        with pytest.raises(ValueError, match="not a key inside"):
            use(key)


def test_pickled_storage_works(storage: Storage) -> None:
    storage.write("before", b"1")
    copy = pickle.loads(pickle.dumps(storage))
    copy.write("after", b"2")
    assert storage.list() == ["after", "before"]


def test_full_disk_in_a_download(storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write("student/model", b"x" * 1000)
    target = tmp_path / "target"
    monkeypatch.setattr(Path, "mkdir", _no_space)
    with pytest.raises(StorageError, match=f"no space left on the disk of {target}, needed for model"):
        storage.download("student", target)


@pytest.mark.parametrize("uri", ["gs://bucket/run", "http://host/run", "s3:///prefix"])
def test_other_addresses_are_refused(uri: str) -> None:
    with pytest.raises(UserError, match=r"neither a local path nor an s3|names no bucket"):
        open_storage(uri)


# Local disks


def _no_space(*_words: Any, **_named: Any) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def folder(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "run"))


def test_a_full_disk_keeps_what_was_there(folder: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write("policy.json", b"old")
    monkeypatch.setattr(os, "fsync", _no_space)
    with pytest.raises(StorageError, match=r"no space left on the disk of .*/run, needed for policy\.json"):
        folder.write("policy.json", b"new")
    assert folder.read("policy.json") == b"old"
    assert [path.name for path in Path(folder.uri).iterdir()] == ["policy.json"]


def test_a_write_that_is_interrupted_leaves_nothing(folder: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_file: int) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        folder.write("capture/part", b"x")
    assert list((Path(folder.uri) / "capture").iterdir()) == []


def test_a_file_stands_where_the_folder_should(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    storage = open_storage(str(tmp_path / "run"))
    with pytest.raises(StorageError, match=r"run/capture/part cannot be used: (Not a directory|File exists)"):
        storage.write("capture/part", b"x")
    with pytest.raises(StorageError, match="cannot be used: Not a directory"):
        storage.read("capture/part")


def test_leftovers_of_a_killed_write_are_not_listed_and_go_with_the_folder(folder: Storage) -> None:
    folder.write("capture/part", b"x")
    leftover = Path(folder.uri) / "capture" / ".tmp-0123"
    leftover.write_bytes(b"half")
    assert folder.list("capture") == ["capture/part"]
    folder.delete_folder("capture")
    assert not leftover.exists()


def test_files_can_be_read_by_those_who_share_the_run(folder: Storage) -> None:
    before = os.umask(0o022)
    try:
        folder.write("recipe.yaml", b"x")
    finally:
        os.umask(before)
    assert (Path(folder.uri) / "recipe.yaml").stat().st_mode & 0o777 == 0o644


# S3


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """boto3 sleeps between its tries."""
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda _seconds: None)


def _uses(storage: Storage, folder: Path) -> list[Callable[[], object]]:
    (folder / "source").mkdir()
    (folder / "source" / "file").write_bytes(b"x")
    return [
        lambda: storage.read("key"),
        lambda: storage.write("key", b"x"),
        lambda: storage.list("prefix"),
        lambda: storage.upload(folder / "source", "prefix"),
        lambda: storage.download("prefix", folder / "target"),
    ]


def _told(use: Callable[[], object]) -> str:
    with pytest.raises(StorageError) as caught:
        use()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_marks_of_folders_are_not_listed_and_go_with_the_folder(s3: Callable[[], str]) -> None:
    storage, client = open_storage(uri := s3()), boto3.client("s3")
    prefix = uri.removeprefix("s3://stillhouse/")
    storage.write("training/x/state", b"1")
    for name in ("training/", "training/x/", "training/x/empty/", "training2/"):
        client.put_object(Bucket="stillhouse", Key=f"{prefix}/{name}", Body=b"")
    assert storage.list() == ["training/x/state"]
    storage.delete_folder("training")
    left = client.list_objects_v2(Bucket="stillhouse", Prefix=f"{prefix}/")["Contents"]
    assert [item["Key"] for item in left] == [f"{prefix}/training2/"]


def test_missing_bucket(s3: Callable[[], str], tmp_path: Path) -> None:
    for use in _uses(open_storage("s3://nobody-made-this/run"), tmp_path):
        assert "the bucket nobody-made-this does not exist" in _told(use)


def test_impossible_bucket(s3: Callable[[], str], tmp_path: Path) -> None:
    for use in _uses(open_storage("s3://No_Such!/run"), tmp_path):
        assert "s3://No_Such!/run cannot be reached" in _told(use)


def test_no_permission(s3: Callable[[], str], tmp_path: Path) -> None:
    client = boto3.client("s3")
    client.create_bucket(Bucket="guarded")
    client.put_object(Bucket="guarded", Key="run/prefix/file", Body=b"x")
    statement = {"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": ["arn:aws:s3:::guarded/*"]}
    client.put_bucket_policy(Bucket="guarded", Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    storage = open_storage("s3://guarded/run")
    read, write, _, upload, download = _uses(storage, tmp_path)  # moto lists in spite of a policy
    for use in (read, write, upload, download, lambda: storage.exists("key"), lambda: storage.delete("key")):
        assert "access is denied" in _told(use)


def test_unreachable_endpoint(
    s3: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_waiting: None
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    for use in _uses(open_storage("s3://stillhouse/run"), tmp_path):
        assert "s3://stillhouse/run cannot be reached" in _told(use)


def test_endpoint_that_is_no_address(s3: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "minio")
    assert "Invalid endpoint: minio" in _told(lambda: open_storage("s3://stillhouse/run").list())


def test_no_credentials(s3: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # which keeps the credentials it found
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    assert "needs credentials: set AWS_ACCESS_KEY_ID" in _told(lambda: open_storage("s3://stillhouse/run").list())
