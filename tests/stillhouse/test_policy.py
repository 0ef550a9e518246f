"""A policy decides by its threshold, survives JSON, and knows whom it was made for."""

import json
import math

import numpy as np
import pytest

from stillhouse.calibration import choose_threshold
from stillhouse.policy import Policy

HASHES = {"student_hash": "a" * 64, "tokenizer_hash": "b" * 64, "task_hash": "c" * 64}


def policy(*, n: int = 100) -> Policy:
    calibration = choose_threshold(np.full(n, 0.9), np.ones(n, dtype=bool), alpha=0.1, delta=0.05)
    return Policy.from_calibration(
        calibration,
        against="teacher",
        **HASHES,
        sampling={"temperature": 0.0, "max_tokens": 4},
        versions={"stillhouse": "0.1.0"},
    )


def test_it_accepts_from_the_threshold_on() -> None:
    made = policy()
    assert made.threshold == 0.9
    assert made.accepts(0.9)
    assert made.accepts(1.0)
    assert not made.accepts(math.nextafter(0.9, 0))


def test_without_a_threshold_nothing_is_accepted() -> None:
    made = policy(n=10)
    assert (made.threshold, made.coverage) == (None, None)
    assert not made.accepts(1.0)


@pytest.mark.parametrize("confidence", [math.nan, -0.01, 1.01, math.inf])
def test_what_is_no_confidence_is_no_decision(confidence: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        policy().accepts(confidence)


@pytest.mark.parametrize("n", [100, 10])
def test_it_survives_json(n: int) -> None:
    assert Policy.load(policy(n=n).save()) == policy(n=n)


def test_it_takes_the_calibrations_numbers() -> None:
    made = policy()
    assert (made.alpha, made.delta, made.n_calibration, made.against) == (0.1, 0.05, 100, "teacher")
    assert made.coverage is not None
    assert made.coverage.value == 1


@pytest.mark.parametrize("name", ["student", "tokenizer", "task"])
def test_it_refuses_another(name: str) -> None:
    policy().check(**HASHES)
    with pytest.raises(ValueError, match=f"calibrated for another {name} .*not dddddddddddd"):
        policy().check(**{**HASHES, f"{name}_hash": "d" * 64})


def broken(**changes: object) -> bytes:
    return json.dumps({**json.loads(policy().save()), **changes}).encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "p.json is not JSON"),
        (b"\xff\xfe{", "p.json is not JSON"),
        (b"[1]", "p.json holds a JSON list"),
        (b"{}", "format version None, but this stillhouse reads version 1"),
        (broken(format_version=2), "format version 2"),
        (broken(threshold=1.5), "threshold: .*less than or equal to 1"),
        (broken(threshold=math.nan), "threshold: "),
        (broken(threshold="high"), "threshold: "),
        (broken(student_hash="abc"), "student_hash: "),
        (broken(score="entropy"), "score: "),
        (broken(knots=[1]), "knots: "),
        (broken(alpha=None, delta=2), "alpha: .*; delta: "),
    ],
)
def test_a_malformed_file_is_one_sentence(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Policy.load(data, source="p.json")
    assert str(caught.value).startswith("p.json")
    assert "\n" not in str(caught.value)
