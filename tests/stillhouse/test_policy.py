"""A policy decides by its threshold, survives JSON, and knows whom it was made for."""

import json
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from calibration_made import THREE, recipe, spread, sure, texts

from stillhouse.calibration import Calibrated, calibrate
from stillhouse.confidence import Evidence
from stillhouse.policy import Policy

HASHES = {"student_hash": "a" * 64, "tokenizer_hash": "b" * 64, "task_hash": "c" * 64}


def policy(calibrated: Calibrated | None = None, *, n: int = 100, alternatives: int = 0) -> Policy:
    return Policy.from_calibration(
        calibrated or calibrate([sure(0.9)] * n, recipe()),
        alternatives=alternatives,
        against="teacher",
        **HASHES,
        template_hash="d" * 64,
        sampling={"temperature": 0.0, "max_tokens": 4, "stop": ["\n"]},
        versions={"stillhouse": "0.1.0"},
    )


def learned(**evaluation: Any) -> Policy:
    records = texts(np.random.default_rng(0), 600)
    return policy(calibrate(records, recipe(alpha=0.2, windows=[6, 12], **evaluation)))


def test_it_accepts_from_the_threshold_on() -> None:
    made = policy()
    assert made.threshold == 0.9
    assert made.accepts(0.9)
    assert made.accepts(1.0)
    assert not made.accepts(math.nextafter(0.9, 0))


def test_without_a_threshold_nothing_is_released_and_nothing_is_accepted() -> None:
    made = policy(n=10)
    assert (made.threshold, made.coverage, made.released) == (None, None, False)
    assert not made.accepts(1.0)
    assert policy().released


@pytest.mark.parametrize("confidence", [math.nan, -0.01, 1.01, math.inf])
def test_what_is_no_confidence_is_no_decision(confidence: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        policy().accepts(confidence)


@pytest.mark.parametrize("score", ["auto", "logistic", "isotonic", "min_logprob"])
def test_it_survives_json_and_decides_as_the_calibration_did(score: str) -> None:
    records = texts(np.random.default_rng(0), 600)
    calibrated = calibrate(records, recipe(alpha=0.2, windows=[6], score=score))
    made = Policy.load(policy(calibrated).save())
    assert made == policy(calibrated)
    for record in records[:50]:
        assert record.evidence is not None
        assert made.confidence(record.evidence) == calibrated.confidence(record)
        assert made.windows[6].confidence(record.evidence) == calibrated.windows[6].confidence(record)


def test_it_takes_the_calibrations_numbers() -> None:
    made = policy()
    assert (made.alpha, made.delta, made.n_calibration, made.against) == (0.1, 0.05, 100, "teacher")
    assert made.coverage is not None
    assert made.coverage.value == 1
    assert learned().n_calibration == 400, "the others chose the score"


def test_windows_stand_alone() -> None:
    made = learned(score="mean_logprob")
    assert list(made.windows) == [6, 12]
    assert len({made.threshold, *(window.threshold for window in made.windows.values())}) > 1
    evidence = Evidence.of([-0.01] * 6 + [-5.0] * 20)
    assert made.windows[6].confidence(evidence) > made.windows[12].confidence(evidence) > made.confidence(evidence)
    assert made.windows[6].hopeless(evidence) is made.windows[6].hopeless(evidence.first(6))


def test_alternatives_are_asked_for_where_a_score_needs_them() -> None:
    records = spread(np.random.default_rng(1), 300)
    margin = calibrate(records, recipe(THREE, score="margin"))
    assert policy(margin, alternatives=3).alternatives == 3
    assert policy(calibrate(records, recipe(THREE, score="sequence_probability")), alternatives=3).alternatives == 0
    with pytest.raises(ValueError, match="without its alternatives"):
        policy(margin, alternatives=3).confidence(Evidence.of([-0.1]))


def test_what_can_only_fall_may_be_given_up() -> None:
    made = policy()
    assert made.monotone
    assert made.hopeless(Evidence.of([math.log(0.8)]))
    assert not made.hopeless(Evidence.of([math.log(0.95)]))
    assert policy(n=10).hopeless(Evidence.of([0.0])), "nothing is accepted"
    mean = policy(calibrate([sure(0.9)] * 100, recipe(score="mean_logprob")))
    assert not mean.monotone
    assert not mean.hopeless(Evidence.of([math.log(0.8)]))


@pytest.mark.parametrize("name", ["student", "tokenizer", "task"])
def test_it_refuses_another(name: str) -> None:
    policy().check(**HASHES)
    with pytest.raises(ValueError, match=f"calibrated for another {name} .*not eeeeeeeeeeee"):
        policy().check(**{**HASHES, f"{name}_hash": "e" * 64})


def broken(**changes: object) -> bytes:
    return json.dumps({**json.loads(policy().save()), **changes}).encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "p.json is not JSON"),
        (b"\xff\xfe{", "p.json is not JSON"),
        (b"[1]", "p.json holds a JSON list"),
        (b"{}", "format version None, but this stillhouse reads version 2; evaluate the student again"),
        (broken(format_version=1, score="sequence_probability"), "format version 1"),
        (broken(threshold=1.5), "threshold: .*less than or equal to 1"),
        (broken(threshold=math.nan), "threshold: "),
        (broken(threshold="high"), "threshold: "),
        (broken(threshold=None), "released exactly when it has a threshold"),
        (broken(released=False), "released exactly when it has a threshold"),
        (broken(student_hash="abc"), "student_hash: "),
        (broken(score="entropy"), "score: "),
        (broken(score={"kind": "feature", "feature": "luck"}), "score.feature.feature: "),
        (broken(score={"kind": "isotonic", "feature": "margin", "knots": [[1, 0.5], [0, 0.7]]}), "must ascend"),
        (broken(score={"kind": "feature", "feature": "mean_logprob"}), "`monotone` is True, and the score says False"),
        (broken(sampling={"temperature": 1.0}), "`sampling` is not what the policy was calibrated with"),
        (broken(knots=[1]), "knots: "),
        (broken(alpha=None, delta=2), "alpha: .*; delta: "),
    ],
)
def test_a_malformed_file_is_one_sentence(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Policy.load(data, source="p.json")
    assert str(caught.value).startswith("p.json")
    assert "\n" not in str(caught.value)


def test_deciding_loads_no_statistics() -> None:
    """A gateway's replica starts, and answers, without scikit-learn and SciPy."""
    script = (
        "import sys; from services.gateway.cascade import Cascade; from stillhouse.policy import Policy;"
        "from stillhouse.confidence import Evidence;"
        "Policy.load(sys.stdin.buffer.read()).confidence(Evidence.of([-0.1]));"
        "print(sorted({'sklearn', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], input=learned().save(), capture_output=True, check=True)
    assert done.stdout.decode().strip() == "[]"
