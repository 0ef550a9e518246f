"""An S3 that answers 500, times out, breaks off or refuses: a short trouble is overcome, a long one is a sentence."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from faulty_s3 import Fault, FaultyS3

from stillhouse import storage
from stillhouse.errors import StorageError
from stillhouse.storage import Storage, open_storage


@pytest.fixture
def faulty(s3: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    server = FaultyS3(os.environ["AWS_ENDPOINT_URL"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
    # A minute is right for a bucket far away, and long for a test.
    monkeypatch.setattr(storage, "READ_TIMEOUT_S", 0.5)
    yield server
    server.close()


@pytest.fixture
def bucket(faulty: FaultyS3, s3: Callable[[], str]) -> Storage:
    return open_storage(s3())


def first(count: int, fault: Fault, method: str) -> Callable[[str, str], Fault | None]:
    """The fault for the first `count` requests of a method."""
    left = [count]

    def of(asked: str, _path: str) -> Fault | None:
        if asked != method or not left[0]:
            return None
        left[0] -= 1
        return fault

    return of


@pytest.mark.parametrize("fault", ["500", "503", "hang"])
def test_a_short_trouble_is_overcome(bucket: Storage, faulty: FaultyS3, fault: Fault) -> None:
    faulty.fault = first(2, fault, "PUT")
    bucket.write("a", b"content")
    assert sum(method == "PUT" for method, _ in faulty.seen) == 3
    faulty.fault = first(2, fault, "GET")
    assert bucket.read("a") == b"content"


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("500", "S3 answered InternalError"),
        ("503", "S3 answered SlowDown"),
        ("hang", "cannot be reached"),
        ("refuse", "access is denied"),
    ],
)
def test_a_long_trouble_is_a_sentence_and_leaves_what_was_there(
    bucket: Storage, faulty: FaultyS3, fault: Fault, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "ATTEMPTS", 2)
    bucket.write("a", b"before")
    faulty.fault = lambda _method, _path: fault
    for act in (
        lambda: bucket.write("a", b"after"),
        lambda: bucket.read("a"),
        lambda: bucket.list(),
        lambda: bucket.delete("a"),
    ):
        with pytest.raises(StorageError, match=told) as raised:
            act()
        assert "\n" not in str(raised.value)
    # HEAD has no body, so that S3's own word for the trouble is missing.
    with pytest.raises(StorageError):
        bucket.exists("a")
    faulty.fault = lambda _method, _path: None
    assert bucket.read("a") == b"before"


def test_a_body_that_breaks_off_is_never_taken_for_a_whole_one(bucket: Storage, faulty: FaultyS3) -> None:
    bucket.write("a", b"x" * 100_000)
    faulty.fault = lambda method, _path: "cut" if method == "GET" else None
    with pytest.raises(StorageError, match="cannot be reached"):
        bucket.read("a")
