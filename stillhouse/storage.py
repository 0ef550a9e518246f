"""Where a run lies: a local folder or `s3://bucket/prefix`, behind one small interface.

A write is whole or not at all: a temporary name and a rename on disk, a single put on S3.
"""

from __future__ import annotations

import errno
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from stillhouse.errors import StorageError, UserError

ATTEMPTS = 5
"""How often S3 is asked before a trouble counts."""

READ_TIMEOUT_S = 60.0
"""Longest silence of S3 within an answer, in seconds."""

_PIECE_BYTES = 4 * 2**20
"""What is held in memory of a large value."""


class Storage(ABC):
    """Keys are relative paths with `/`; values are bytes."""

    uri: str

    @abstractmethod
    def read(self, key: str) -> bytes:
        """The value at `key`. Raises `KeyError` where there is none, `StorageError` where it cannot be read."""

    @abstractmethod
    def pieces(self, key: str) -> Iterator[bytes]:
        """The value at `key`, a few MiB at a time. Raises as `read`."""

    @abstractmethod
    def download_file(self, key: str, path: Path) -> None:
        """Copy the value at `key` to the local file `path`. Raises as `read`."""

    @abstractmethod
    def write(self, key: str, data: bytes) -> None:
        """Put `data` at `key`, whole or not at all. Raises `StorageError`."""

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Whether there is a value at `key`."""

    @abstractmethod
    def list(self, prefix: str = "") -> list[str]:
        """All keys below the folder `prefix`, sorted. Temporary names of unfinished writes are left out."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove `key`, if it is there."""

    @abstractmethod
    def download(self, prefix: str, folder: Path) -> Path:
        """Copy everything below `prefix` into the local `folder`, and return it."""

    @abstractmethod
    def upload(self, folder: Path, prefix: str) -> None:
        """Copy everything below the local `folder` to `prefix`."""

    def delete_folder(self, prefix: str) -> None:
        """Remove everything below the folder `prefix`."""
        for key in self.list(prefix):
            self.delete(key)


def open_storage(uri: str) -> Storage:
    """The storage behind a path or an `s3://bucket/prefix` address.

    Raises:
        UserError: another scheme, or no bucket.
    """
    parts = urlsplit(uri)
    if parts.scheme == "s3":
        if not parts.netloc:
            raise UserError(f"{uri} names no bucket: write s3://bucket/prefix")
        return S3Storage(parts.netloc, parts.path.strip("/"))
    if "://" in uri:
        raise UserError(f"{uri} is neither a local path nor an s3:// address")
    return LocalStorage(Path(uri))


def _checked(key: str) -> str:
    path = PurePosixPath(key)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{key!r} is not a key inside the storage")
    return str(path)


class LocalStorage(Storage):
    """A folder on this machine's disk."""

    _TEMPORARY = ".tmp-"

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser().resolve()
        self.uri = str(self.folder)

    def path(self, key: str) -> Path:
        """Where `key` lies on disk."""
        return self.folder / _checked(key)

    def read(self, key: str) -> bytes:
        with _disk(self.uri, key):
            try:
                return self.path(key).read_bytes()
            except FileNotFoundError as error:
                raise KeyError(key) from error

    def pieces(self, key: str) -> Iterator[bytes]:
        with _disk(self.uri, key):
            try:
                file = self.path(key).open("rb")
            except FileNotFoundError as error:
                raise KeyError(key) from error
            with file:
                while piece := file.read(_PIECE_BYTES):
                    yield piece

    def download_file(self, key: str, path: Path) -> None:
        with path.open("wb") as file:
            file.writelines(self.pieces(key))

    def write(self, key: str, data: bytes) -> None:
        self._put(key, [data])

    def _put(self, key: str, pieces: Iterable[bytes]) -> None:
        target = self.path(key)
        temporary = target.parent / f"{self._TEMPORARY}{uuid4().hex}"
        with _disk(self.uri, key):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                # Not `tempfile`, whose files nobody else may read: a run is often shared.
                with temporary.open("xb") as file:
                    file.writelines(pieces)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(target)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise

    def exists(self, key: str) -> bool:
        with _disk(self.uri, key):
            return self.path(key).is_file()

    def list(self, prefix: str = "") -> list[str]:
        root = self.path(prefix) if prefix else self.folder
        return sorted(
            path.relative_to(self.folder).as_posix()
            for path in root.rglob("*")
            if path.is_file() and not path.name.startswith(self._TEMPORARY)
        )

    def delete(self, key: str) -> None:
        with _disk(self.uri, key):
            self.path(key).unlink(missing_ok=True)

    def delete_folder(self, prefix: str) -> None:
        # The temporary files of writes that were killed go too.
        with _disk(self.uri, prefix):
            if (folder := self.path(prefix)).is_dir():
                shutil.rmtree(folder)

    def download(self, prefix: str, folder: Path) -> Path:
        source = self.path(prefix)
        if source != folder.resolve():
            for key in self.list(prefix):
                inside = str(PurePosixPath(key).relative_to(prefix))
                with _disk(str(folder), inside):
                    (folder / inside).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(self.path(key), folder / inside)
        return folder

    def upload(self, folder: Path, prefix: str) -> None:
        for path in _files(folder):
            with path.open("rb") as file:
                pieces = iter(partial(file.read, _PIECE_BYTES), b"")
                self._put(f"{prefix}/{path.relative_to(folder).as_posix()}", pieces)


class S3Storage(Storage):
    """A prefix in a bucket, through boto3; `AWS_ENDPOINT_URL` and the usual credentials are respected."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self.bucket = bucket
        self.prefix = prefix
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")

    @property
    def _client(self) -> Any:
        import boto3
        from botocore.config import Config

        # Made where it is used, since a client does not survive pickling to a Ray worker.
        if not hasattr(self, "_made_client"):
            retries: Any = {"mode": "standard", "max_attempts": ATTEMPTS}
            config = Config(retries=retries, connect_timeout=10, read_timeout=READ_TIMEOUT_S)
            try:
                self._made_client = boto3.client("s3", config=config)
            except ValueError as error:
                raise StorageError(f"{self.uri} cannot be reached: {error}") from error
        return self._made_client

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_made_client"}

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{_checked(key)}" if self.prefix else _checked(key)

    def read(self, key: str) -> bytes:
        return b"".join(self.pieces(key))

    def pieces(self, key: str) -> Iterator[bytes]:
        with self._told(key), self._found(key):
            body = self._client.get_object(Bucket=self.bucket, Key=self._key(key))["Body"]
            yield from body.iter_chunks(_PIECE_BYTES)

    def download_file(self, key: str, path: Path) -> None:
        with self._told(key), self._found(key), _disk(str(path.parent), path.name):
            self._client.download_file(self.bucket, self._key(key), str(path))

    def write(self, key: str, data: bytes) -> None:
        with self._told(key):
            self._client.put_object(Bucket=self.bucket, Key=self._key(key), Body=data)

    def exists(self, key: str) -> bool:
        try:
            with self._told(key), self._found(key):
                self._client.head_object(Bucket=self.bucket, Key=self._key(key))
        except KeyError:
            return False
        return True

    def list(self, prefix: str = "") -> list[str]:
        skip = len(self.prefix) + 1 if self.prefix else 0
        # Other programs mark folders by empty objects whose names end in a slash.
        return sorted(name[skip:] for name in self._names(prefix) if not name.endswith("/"))

    def _names(self, prefix: str) -> Iterator[str]:
        """The bucket's names of all objects below the folder `prefix`."""
        start = self._key(prefix) + "/" if prefix else (f"{self.prefix}/" if self.prefix else "")
        with self._told(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=start)
            for page in pages:
                yield from (item["Key"] for item in page.get("Contents", ()))

    def delete(self, key: str) -> None:
        with self._told(key):
            self._client.delete_object(Bucket=self.bucket, Key=self._key(key))

    def delete_folder(self, prefix: str) -> None:
        for name in [*self._names(prefix)]:
            with self._told(prefix):
                self._client.delete_object(Bucket=self.bucket, Key=name)

    def download(self, prefix: str, folder: Path) -> Path:
        for key in self.list(prefix):
            inside = str(PurePosixPath(key).relative_to(prefix))
            with self._told(key), _disk(str(folder), inside):
                (folder / inside).parent.mkdir(parents=True, exist_ok=True)
                self._client.download_file(self.bucket, self._key(key), str(folder / inside))
        return folder

    def upload(self, folder: Path, prefix: str) -> None:
        # upload_file splits large weights into a multipart upload, which S3 also shows whole or not at all.
        for path in _files(folder):
            key = f"{prefix}/{path.relative_to(folder).as_posix()}"
            with self._told(key):
                self._client.upload_file(str(path), self.bucket, self._key(key))

    @contextmanager
    def _found(self, key: str) -> Iterator[None]:
        from botocore.exceptions import ClientError

        try:
            yield
        except ClientError as error:
            if error.response["Error"]["Code"] in {"NoSuchKey", "404"}:
                raise KeyError(key) from error
            raise

    @contextmanager
    def _told(self, key: str) -> Iterator[None]:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

        try:
            yield
        except NoCredentialsError as error:
            raise StorageError(
                f"{self.uri} needs credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ) from error
        except (ClientError, BotoCoreError, Boto3Error) as error:
            # A failed upload hides S3's answer behind an error of its own.
            answer = error if isinstance(error, ClientError) else error.__context__
            if not isinstance(answer, ClientError):
                raise StorageError(f"{self.uri} cannot be reached: {' '.join(str(error).split())}") from error
            code = answer.response["Error"]["Code"]
            why = {
                "AccessDenied": "access is denied",
                "403": "access is denied",
                "NoSuchBucket": f"the bucket {self.bucket} does not exist",
            }.get(code, f"S3 answered {code}")
            raise StorageError(f"{self.uri}/{key} cannot be used: {why}") from error


@contextmanager
def _disk(folder: str, key: str) -> Iterator[None]:
    """Tell what the disk refused of `key` in `folder`."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StorageError(f"no space left on the disk of {folder}, needed for {key}") from error
        raise StorageError(f"{folder}/{key} cannot be used: {error.strerror or error}") from error


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
