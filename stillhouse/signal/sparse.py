"""The teacher's distribution at each token of a completion, as far as it is kept: a few tokens with their logprobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SparseSignal:
    """Entries of all tokens, one after another.

    Attributes:
        ids: [entries], int32; within a token in rank order, the most probable first.
        logprobs: [entries], float32, in nats; for `topk` the teacher's raw ones, for `sampled` the logarithm of a
            token's share of the draws.
        offsets: [tokens + 1], int64; token t owns the entries `offsets[t]:offsets[t + 1]`.
        mass: [tokens], float32, the probability that the kept entries hold in the teacher's distribution; 1 for
            `sampled`, whose shares are unbiased estimates of all of it.
        draws: for `sampled`, how many tokens were drawn at each position; None for `topk`.
    """

    ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    offsets: NDArray[np.int64]
    mass: NDArray[np.float32]
    draws: int | None = None

    @classmethod
    def of(cls, top_ids: Sequence[Sequence[int]], top_logprobs: Sequence[Sequence[float]]) -> SparseSignal:
        """From lists, one a token: [tokens, <= k] ids and logprobs in rank order.

        Raises:
            ValueError: a token has more ids than logprobs, or fewer.
        """
        counts = [len(ids) for ids in top_ids]
        if counts != [len(logprobs) for logprobs in top_logprobs]:
            raise ValueError("every token needs as many logprobs as ids")
        logprobs = np.array([value for values in top_logprobs for value in values], np.float32)
        offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)
        ids = np.array([token for tokens in top_ids for token in tokens], np.int32)
        return cls(ids, logprobs, offsets, captured(logprobs, offsets))

    @classmethod
    def of_draws(
        cls, ids: NDArray[np.int32], counts: NDArray[np.integer], offsets: NDArray[np.int64], draws: int
    ) -> SparseSignal:
        """`sampled`: how often each of `ids` [entries] was drawn; within a token the most frequent first.

        Raises:
            ValueError: a token's counts do not add up to `draws`.
        """
        if not np.array_equal(token_sums(counts.astype(np.float64), offsets), np.full(len(offsets) - 1, draws)):
            raise ValueError(f"every token needs counts that add up to {draws} draws")
        logprobs = np.log(counts / draws).astype(np.float32)
        return cls(ids, logprobs, offsets, np.ones(len(offsets) - 1, np.float32), draws)

    def __len__(self) -> int:
        """Tokens."""
        return len(self.mass)

    @property
    def counts(self) -> NDArray[np.int64]:
        """[tokens], how many entries each token has."""
        return np.diff(self.offsets)

    def at(self, token: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The ids and logprobs of one token, in rank order."""
        entries = slice(self.offsets[token], self.offsets[token + 1])
        return self.ids[entries], self.logprobs[entries]


def captured(logprobs: NDArray[np.float32], offsets: NDArray[np.int64]) -> NDArray[np.float32]:
    """[tokens], float32: the probability that each token's entries hold; at most 1, whatever rounding did."""
    return np.minimum(token_sums(np.exp(logprobs.astype(np.float64)), offsets), 1.0).astype(np.float32)


def token_sums(values: NDArray[np.float64], offsets: NDArray[np.int64]) -> NDArray[np.float64]:
    """[tokens], float64: the sum of each token's `values` [entries]; 0 for a token without entries."""
    counts = np.diff(offsets)
    return np.bincount(np.repeat(np.arange(len(counts)), counts), values, len(counts)).astype(np.float64)
