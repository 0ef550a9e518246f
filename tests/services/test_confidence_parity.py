"""What the evaluation reads from vLLM's arrays and the gateway from its replies is the same evidence, bit for bit."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from vllm.logprobs import FlatLogprobs

from ray_jobs.evaluate import evidence_of
from ray_jobs.logprobs import most_probable, written_logprobs
from services.gateway.engine import Path, generation
from stillhouse.confidence import FEATURES, FeatureScore
from stillhouse.signal.schema import Completion

K = 3


def positions(rng: np.random.Generator, tokens: int, allowed: int) -> list[list[float]]:
    """[tokens, K] float32 logprobs of the likeliest tokens, of which a contract allows some; the first is written."""
    found = []
    for _ in range(tokens):
        spread = np.sort(rng.dirichlet(np.full(allowed, 0.5)))[::-1]
        logprobs = np.log(spread).astype(np.float32).tolist() + [-math.inf] * K
        found.append(logprobs[:K])
    return found


def evaluated(answer: list[list[float]], alternatives: int) -> Completion:
    """As the batch engine makes it of vLLM's flat logprobs: the written token, then the K likeliest."""
    flat = FlatLogprobs()
    for top in answer:
        kept = top[:alternatives]
        ranks = iter([1, *range(1, len(kept) + 1)])
        flat.append_fast([0, *range(len(kept))], [top[0], *kept], ranks, [None] * (len(kept) + 1))  # type: ignore[arg-type]
    ids = [0] * len(answer)
    if not alternatives:
        return Completion([1], "", ids, "stop", written_logprobs(flat, len(answer)), None)
    written, signal = most_probable(flat, len(answer))
    return Completion([1], "", ids, "stop", written, signal)


def reply(path: Path, answer: list[list[float]], asked: int) -> dict[str, Any]:
    """As vLLM's API writes it, through JSON: minus infinity is -9999, and plain completions hold a mapping."""
    tops = [[(f"t{i}", max(value, -9999.0)) for i, value in enumerate(top[:asked])] for top in answer]
    usage = {"prompt_tokens": 1, "completion_tokens": len(answer)}
    if path == "chat":
        content = [
            {"token": "t0", "logprob": top[0], "top_logprobs": [{"token": t, "logprob": v} for t, v in ranked]}
            for top, ranked in zip(answer, tops, strict=True)
        ]
        choice = {"message": {"content": "x"}, "finish_reason": "stop", "logprobs": {"content": content}}
    else:
        logprobs = {
            "tokens": ["t0"] * len(answer),
            "token_logprobs": [top[0] for top in answer],
            # The written token is always there, whatever was asked for.
            "top_logprobs": [dict(ranked or [("t0", top[0])]) for top, ranked in zip(answer, tops, strict=True)],
        }
        choice = {"text": "x", "finish_reason": "stop", "logprobs": logprobs}
    found: dict[str, Any] = json.loads(json.dumps({"choices": [choice], "usage": usage}))
    return found


@pytest.mark.parametrize("path", ["chat", "completions"])
@pytest.mark.parametrize("allowed", [1, 2, 5])
@pytest.mark.parametrize("alternatives", [0, K - 1, K])
def test_both_read_the_same(path: Path, allowed: int, alternatives: int) -> None:
    rng = np.random.default_rng(allowed)
    for tokens in (1, 2, 7):
        answer = positions(rng, tokens, allowed)
        at_evaluation = evidence_of(evaluated(answer, alternatives))
        # The client may ask for more than the score needs.
        for asked in {alternatives, K}:
            served = generation(path, reply(path, answer, asked)).evidence(alternatives)
            assert served == at_evaluation
        for name, feature in FEATURES.items():
            if alternatives or not feature.alternatives:
                assert FeatureScore(feature=name)(served) == FeatureScore(feature=name)(at_evaluation)
