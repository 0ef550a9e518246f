"""Cutting a distribution off where enough of its probability is kept."""

from __future__ import annotations

import numpy as np

from stillhouse.signal.sparse import SparseSignal, captured, token_sums


def cut(signal: SparseSignal, mass: float) -> SparseSignal:
    """At each token the fewest entries that hold `mass` of the probability; all of them where they hold less.

    Args:
        signal: a `topk` one, in rank order.
        mass: in (0, 1], as the teacher's own probability, not a share of what is kept.

    Returns:
        A new signal, whose `mass` is that of what is left.

    Raises:
        ValueError: the signal is a `sampled` one, whose tail is as unbiased as its head.
    """
    if signal.draws is not None:
        raise ValueError("what was drawn from the whole distribution is not cut")
    probabilities = np.exp(signal.logprobs.astype(np.float64))
    total = np.concatenate([[0.0], np.cumsum(probabilities)])
    before = total[:-1] - np.repeat(total[signal.offsets[:-1]], signal.counts)
    # A token's first entry stays: nothing was before it.
    kept = before < mass
    counts = token_sums(kept.astype(np.float64), signal.offsets).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    logprobs = signal.logprobs[kept]
    return SparseSignal(signal.ids[kept], logprobs, offsets, captured(logprobs, offsets))
