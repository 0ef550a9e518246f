"""Random signals for the tests of this folder."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from stillhouse.signal.sparse import SparseSignal, captured

VOCABULARY = 151_936
ENTRIES = (1, 2, 3, 8, 20, 64, 256)


@st.composite
def topk_signals(draw: st.DrawFn, entries: tuple[int, ...] = ENTRIES, least: int = 0) -> SparseSignal:
    """Up to five tokens, from flat to peaked, that hold all or part of the probability."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    counts = draw(st.lists(st.sampled_from(entries), min_size=least, max_size=5))
    scale = draw(st.sampled_from([0.0, 0.1, 1.0, 3.0, 10.0, 40.0]))
    ids, logprobs = [], []
    for count in counts:
        ids.append(generator.choice(VOCABULARY, count, replace=False))
        logits = np.sort(generator.standard_normal(count) * scale)[::-1]
        logprobs.append(logits - np.logaddexp.reduce(logits) + np.log(draw(st.sampled_from([1.0, 0.77, 0.01]))))
    return joined(ids, logprobs)


@st.composite
def sampled_signals(draw: st.DrawFn) -> SparseSignal:
    """Up to five tokens, each with 50 draws."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tokens, draws = draw(st.integers(1, 5)), draw(st.sampled_from([1, 50, 255]))
    ids, counts, offsets = [], [], [0]
    for _ in range(tokens):
        drawn, often = np.unique(generator.zipf(1.3, draws) % VOCABULARY, return_counts=True)
        order = np.lexsort((drawn, -often))
        ids.append(drawn[order].astype(np.int32))
        counts.append(often[order])
        offsets.append(offsets[-1] + len(drawn))
    return SparseSignal.of_draws(np.concatenate(ids), np.concatenate(counts), np.array(offsets), draws)


def joined(ids: list[np.ndarray], logprobs: list[np.ndarray]) -> SparseSignal:
    """A signal of these tokens."""
    offsets = np.cumsum([0, *(len(one) for one in ids)])
    values = np.concatenate([np.zeros(0), *logprobs]).astype(np.float32)
    return SparseSignal(
        np.concatenate([np.zeros(0), *ids]).astype(np.int32), values, offsets, captured(values, offsets)
    )


def divergence(one: SparseSignal, other: SparseSignal, temperature: float = 1.0) -> np.ndarray:
    """[tokens], float64: KL(one ‖ other) of the entries' shares, token by token, over the same ids."""
    found = []
    for token in range(len(one)):
        shares = []
        for signal in (one, other):
            ids, logprobs = signal.at(token)
            logits = logprobs[np.argsort(ids)].astype(np.float64) / temperature
            shares.append(logits - np.logaddexp.reduce(logits))
            assert len(np.unique(ids)) == len(ids)
        assert sorted(one.at(token)[0]) == sorted(other.at(token)[0])
        found.append((np.exp(shares[0]) * (shares[0] - shares[1])).sum())
    return np.array(found)
