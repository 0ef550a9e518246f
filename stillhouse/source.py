"""The rows of a data file, one after another: JSONL, CSV or Parquet; from disk, S3 or an installed package.

Nothing here holds more than a few rows in memory, whatever the file's size.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from stillhouse.errors import UserError
from stillhouse.resources import SCHEME, package_file
from stillhouse.run import file_sha256
from stillhouse.storage import open_storage

MAX_ROW_BYTES = 64 * 2**20
"""Longest row of a text file: what is longer is no row, and would fill the memory."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_PARQUET_ROWS = 1024
"""Rows of a Parquet file that are in memory at once."""


class Source:
    """A data file that can be read again and again; one on S3 is copied to this machine's disk for as long as it is
    used.

    Raises:
        UserError: there is no such file.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._suffix = PurePosixPath(path).suffix.lower()
        if path.startswith("s3://"):
            self._folder = tempfile.TemporaryDirectory(prefix="stillhouse-data-")
            self.file = Path(self._folder.name) / f"data{self._suffix}"
            folder, _, key = path.rpartition("/")
            try:
                open_storage(folder).download_file(key, self.file)
            except KeyError as error:
                raise UserError(f"data.path: {path} does not exist") from error
        else:
            self.file = package_file(path) if path.startswith(SCHEME) else Path(path)
        try:
            with self.file.open("rb"):
                pass
        except FileNotFoundError as error:
            raise UserError(f"data.path: {path} does not exist") from error
        except OSError as error:
            raise UserError(f"data.path: {path} cannot be read: {error.strerror}") from error

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Pairs of place (`line N` of a text or `row N` of a table, from 1) and columns.

        Raises:
            UserError: a row is malformed; it says which.
        """
        if self._suffix == ".parquet":
            return self._parquet()
        if self._suffix == ".csv":
            return self._csv()
        if self._suffix in {".jsonl", ".ndjson", ".json"}:
            return self._jsonl()
        raise UserError(f"data.path: {self.path} must end in .jsonl, .csv or .parquet")

    def _parquet(self) -> Iterator[tuple[str, dict[str, Any]]]:
        import pyarrow
        import pyarrow.parquet

        number = 0
        try:
            with pyarrow.parquet.ParquetFile(self.file) as table:
                for batch in table.iter_batches(batch_size=_PARQUET_ROWS):
                    for row in batch.to_pylist():
                        number += 1
                        yield f"row {number}", row
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"data.path: {self.path} is not Parquet: {str(error).splitlines()[0]}") from error

    def _csv(self) -> Iterator[tuple[str, dict[str, Any]]]:
        csv.field_size_limit(MAX_ROW_BYTES)
        reader = csv.DictReader(line for _, line in self._lines())
        try:
            for row in reader:
                if None in row or None in row.values():
                    than = "more" if None in row else "fewer"
                    raise UserError(
                        f"data.path: {self.path}, line {reader.line_num} has {than} columns than the header"
                    )
                yield f"line {reader.line_num}", row
        except csv.Error as error:
            raise UserError(f"data.path: {self.path}, line {reader.line_num} is not CSV: {error}") from error

    def _jsonl(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for number, line in self._lines():
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                why = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deep"
                raise UserError(f"data.path: {self.path}, line {number} is not JSON: {why}") from error
            if not isinstance(value, dict):
                raise UserError(f"data.path: {self.path}, line {number} is not a JSON object")
            if "\\u" in line and _SURROGATE.search(json.dumps(value, ensure_ascii=False)):
                raise UserError(f"data.path: {self.path}, line {number} holds half of a character: a lone surrogate")
            yield f"line {number}", value

    def _lines(self) -> Iterator[tuple[int, str]]:
        with self.file.open("rb") as file:
            for number, raw in enumerate(iter(lambda: file.readline(MAX_ROW_BYTES + 1), b""), 1):
                if len(raw) > MAX_ROW_BYTES:
                    raise UserError(
                        f"data.path: {self.path}, line {number} is longer than {MAX_ROW_BYTES // 2**20} MiB"
                    )
                try:
                    yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise UserError(f"data.path: {self.path}, line {number} is not UTF-8") from error


def content_sha256(path: str) -> str:
    """sha256 of a data file's content, read in pieces. Raises `UserError` where there is none."""
    if not path.startswith("s3://"):
        return file_sha256(Source(path).file)
    folder, _, key = path.rpartition("/")
    content = hashlib.sha256()
    try:
        for piece in open_storage(folder).pieces(key):
            content.update(piece)
    except KeyError as error:
        raise UserError(f"data.path: {path} does not exist") from error
    return content.hexdigest()
