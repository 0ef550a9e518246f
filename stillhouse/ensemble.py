"""Several teachers' answers to one question, made into one: a weighted vote, or a weighted mean of distributions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from stillhouse.recipe import Task
from stillhouse.signal.schema import Completion
from stillhouse.signal.sparse import SparseSignal
from stillhouse.task import answer


def majority(task: Task, completions: Sequence[str], weights: Sequence[float]) -> tuple[int, float]:
    """Which completion the teachers agree on.

    Answers are compared as they are graded, so that the order of a JSON object's keys does not matter. A completion
    that breaks the task's contract has no vote; between equals the one named first wins.

    Returns:
        The index of the winner, the completion of the weightiest teacher behind the winning answer; and the agreement,
        the winning answer's share of all weight. Where nobody keeps the contract: the first completion, and 0.
    """
    behind: dict[str, float] = defaultdict(float)
    answers = [answer(task, completion) for completion in completions]
    for given, weight in zip(answers, weights, strict=True):
        if given is not None:
            behind[given] += weight
    if not behind:
        return 0, 0.0
    winning = max(behind, key=lambda given: behind[given])  # the first of equals: dicts keep their order
    winner = max((i for i, given in enumerate(answers) if given == winning), key=lambda i: weights[i])
    return winner, behind[winning] / sum(weights)


def mean(completions: Sequence[Completion], weights: Sequence[float], *, k: int) -> Completion:
    """One completion, with the weighted mean of several teachers' distributions at each of its tokens.

    A token that a teacher did not keep counts with probability 0 for it: the mean is a lower bound there, too low by no
    more than the mass that this teacher did not keep, and `mass` says how much the kept entries hold.

    Args:
        completions: the same tokens, each with one teacher's signal.
        weights: of the teachers; they need not sum to 1.
        k: most entries of a token.

    Raises:
        ValueError: the tokens differ, or a signal is missing.
    """
    first = completions[0]
    shares = np.asarray(weights, dtype=np.float64) / sum(weights)
    signals = []
    for completion in completions:
        if completion.token_ids != first.token_ids:
            raise ValueError("the teachers read different tokens: they have no common distribution")
        if completion.signal is None or completion.token_logprobs is None:
            raise ValueError("a teacher told no distribution: there is no mean")
        signals.append(completion.signal)
    told = np.array([completion.token_logprobs for completion in completions], dtype=np.float64)
    own = np.log(shares @ np.exp(np.minimum(told, 0.0)) if told.size else np.zeros(0))
    return Completion(
        prompt_token_ids=first.prompt_token_ids,
        text=first.text,
        token_ids=first.token_ids,
        finish_reason=first.finish_reason,
        token_logprobs=own.tolist(),
        signal=_mean_signal(signals, shares, k),
    )


def _mean_signal(signals: Sequence[SparseSignal], shares: np.ndarray, k: int) -> SparseSignal:
    tokens = len(signals[0])
    # One number for a token's place and an id, so that equal ones of several teachers meet.
    keys = np.concatenate([_places(signal).astype(np.int64) << 32 | signal.ids for signal in signals])
    parts = np.concatenate(
        [share * np.exp(signal.logprobs.astype(np.float64)) for share, signal in zip(shares, signals, strict=True)]
    )
    unique, place = np.unique(keys, return_inverse=True)
    probabilities = np.bincount(place, weights=parts, minlength=len(unique))
    token, ids = unique >> 32, (unique & 0xFFFFFFFF).astype(np.int32)
    order = np.lexsort((ids, -probabilities, token))
    token, ids, probabilities = token[order], ids[order], probabilities[order]
    rank = np.arange(len(token)) - np.searchsorted(token, token)
    kept = rank < k
    token, ids, probabilities = token[kept], ids[kept], probabilities[kept]
    counts = np.bincount(token, minlength=tokens)
    return SparseSignal(
        ids=ids,
        logprobs=np.log(probabilities).astype(np.float32),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        mass=np.minimum(np.bincount(token, weights=probabilities, minlength=tokens), 1.0).astype(np.float32),
    )


def _places(signal: SparseSignal) -> np.ndarray:
    """[entries], the token that each entry belongs to."""
    return np.repeat(np.arange(len(signal)), np.diff(signal.offsets))
