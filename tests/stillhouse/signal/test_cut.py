"""Cutting distributions off where enough of them is kept."""

from __future__ import annotations

import numpy as np
import pytest
from distributions import topk_signals
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.signal.cut import cut
from stillhouse.signal.sparse import SparseSignal


def test_the_fewest_entries_that_hold_the_mass() -> None:
    signal = SparseSignal.of(
        [[1, 2, 3], [4, 5], [], [6]], [list(np.log([0.6, 0.3, 0.05])), list(np.log([0.5, 0.1])), [], [0.0]]
    )

    kept = cut(signal, 0.8)

    assert [kept.at(token)[0].tolist() for token in range(4)] == [[1, 2], [4, 5], [], [6]]
    np.testing.assert_allclose(kept.mass, [0.9, 0.6, 0.0, 1.0], rtol=1e-6)
    assert cut(signal, 0.05).counts.tolist() == [1, 1, 0, 1], "one entry always stays"


@given(topk_signals(), st.sampled_from([0.001, 0.5, 0.9, 0.999, 1.0]))
@settings(max_examples=150, deadline=None)
def test_no_fewer_would_do_and_no_more_are_kept(signal: SparseSignal, mass: float) -> None:
    kept = cut(signal, mass)

    assert len(kept) == len(signal)
    for token in range(len(signal)):
        (ids, logprobs), count = signal.at(token), int(kept.counts[token])
        assert np.array_equal(kept.at(token)[0], ids[:count])
        assert np.array_equal(kept.at(token)[1], logprobs[:count])
        held = np.cumsum(np.exp(logprobs.astype(np.float64)))
        assert kept.mass[token] == pytest.approx(min(1.0, held[count - 1]), rel=1e-5)
        assert count == 1 or held[count - 2] < mass + 1e-9, "one less would not have held it"
        assert count == len(ids) or held[count - 1] > mass - 1e-9, "and these do"


def test_draws_are_not_cut() -> None:
    signal = SparseSignal.of_draws(np.array([5, 9], np.int32), np.array([4, 1]), np.array([0, 2]), 5)
    with pytest.raises(ValueError, match="is not cut"):
        cut(signal, 0.9)
