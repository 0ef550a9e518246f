"""The teacher's distribution at each token of a completion, as far as it is kept: a few tokens with their logprobs."""

from __future__ import annotations

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
    """

    ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    offsets: NDArray[np.int64]
    mass: NDArray[np.float32]

    def __len__(self) -> int:
        """Tokens."""
        return len(self.mass)

    def at(self, token: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The ids and logprobs of one token, in rank order."""
        entries = slice(self.offsets[token], self.offsets[token + 1])
        return self.ids[entries], self.logprobs[entries]
