"""The type that distributions travel in."""

from __future__ import annotations

import numpy as np
import pytest

from stillhouse.signal.sparse import SparseSignal


def test_from_lists() -> None:
    signal = SparseSignal.of([[7, 8], [], [9]], [[-0.5, -1.25], [], [1e-6]])

    assert (len(signal), signal.counts.tolist(), signal.draws) == (3, [2, 0, 1], None)
    assert [signal.at(token)[0].tolist() for token in range(3)] == [[7, 8], [], [9]]
    assert [signal.at(token)[1].tolist() for token in range(2)] == [[-0.5, -1.25], []]
    assert signal.mass[0] == pytest.approx(np.exp(-0.5) + np.exp(-1.25))
    assert signal.mass[1:].tolist() == [0, 1], "float32 rounds a certain token's logprob to a hair above 0"
    assert (signal.ids.dtype, signal.logprobs.dtype, signal.mass.dtype) == (np.int32, np.float32, np.float32)


@pytest.mark.parametrize("logprobs", [[[-0.5], [-1.0]], [[-0.5, -1.0, -2.0], []], [[-0.5, -1.0]]])
def test_every_token_needs_as_many_logprobs_as_ids(logprobs: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="as many logprobs as ids"):
        SparseSignal.of([[7, 8], [9]], logprobs)


def test_from_draws() -> None:
    signal = SparseSignal.of_draws(np.array([4, 9, 2], np.int32), np.array([3, 1, 4], np.uint8), np.array([0, 2, 3]), 4)
    assert signal.draws == 4
    np.testing.assert_allclose(np.exp(signal.logprobs), [0.75, 0.25, 1.0], rtol=1e-6)
    assert signal.mass.tolist() == [1, 1]
