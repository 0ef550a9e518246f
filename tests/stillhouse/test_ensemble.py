"""Several teachers' answers, made into one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.ensemble import majority, mean
from stillhouse.recipe import Recipe, Task
from stillhouse.signal.schema import Completion
from stillhouse.signal.sparse import SparseSignal

MakeRecipe = Callable[..., Recipe]

CHOICES = Task(kind="choices", prompt="{text}", choices=(" yes", " no", " maybe"))
JSON = Task(
    kind="json",
    prompt="{text}",
    json_schema={"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}},
)


@pytest.mark.parametrize(
    ("completions", "weights", "expected"),
    [
        ([" yes", " no", " no"], [1, 1, 1], (1, 2 / 3)),
        ([" yes", " no", " no"], [3, 1, 1], (0, 3 / 5)),
        # Between equals the one named first wins.
        ([" yes", " no"], [1, 1], (0, 1 / 2)),
        # Of those that agree, the weightiest one's completion is kept.
        ([" no", " yes", " no"], [1, 1, 2], (2, 3 / 4)),
        # What breaks the contract has no vote, but its weight counts against the agreement.
        (["who knows", " no"], [9, 1], (1, 1 / 10)),
        (["who knows", "nor I"], [1, 1], (0, 0.0)),
    ],
)
def test_a_vote_among_choices(completions: list[str], weights: list[float], expected: tuple[int, float]) -> None:
    winner, agreement = majority(CHOICES, completions, weights)
    assert (winner, agreement) == (expected[0], pytest.approx(expected[1]))


def test_objects_agree_whatever_the_order_of_their_keys() -> None:
    assert majority(JSON, ['{"a": 1, "b": 2}', '{"a": 2}', '{"b":2,"a":1}'], [1, 1, 1]) == (0, pytest.approx(2 / 3))


def signal_of(dense: np.ndarray, k: int | None = None) -> SparseSignal:
    """The signal of [tokens, vocabulary] probabilities; zeros are left out."""
    ids, logprobs, offsets, mass = [], [], [0], []
    for row in dense:
        order = [i for i in np.argsort(-row, kind="stable")[:k] if row[i] > 0]
        ids += order
        logprobs += [np.log(row[i]) for i in order]
        offsets.append(len(ids))
        mass.append(sum(row[i] for i in order))
    return SparseSignal(
        np.array(ids, np.int32), np.array(logprobs, np.float32), np.array(offsets, np.int64), np.array(mass, np.float32)
    )


def dense_of(signal: SparseSignal, vocabulary: int) -> np.ndarray:
    dense = np.zeros((len(signal), vocabulary))
    for token in range(len(signal)):
        ids, logprobs = signal.at(token)
        assert len(set(ids.tolist())) == len(ids)
        assert (np.diff(logprobs) <= 1e-6).all()
        dense[token, ids] = np.exp(logprobs)
    return dense


def completion_of(dense: np.ndarray, tokens: list[int], k: int | None = None) -> Completion:
    told = np.log(dense[np.arange(len(tokens)), tokens]).tolist()
    return Completion([1], "text", tokens, "stop", told, signal_of(dense, k))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_mean_of_whole_distributions_is_exact(data: st.DataObject) -> None:
    teachers, tokens, vocabulary = (data.draw(st.integers(1, most)) for most in (4, 5, 12))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    dense = generator.dirichlet(np.ones(vocabulary), size=(teachers, tokens))
    weights = generator.uniform(0.1, 5, size=teachers)
    own = generator.integers(0, vocabulary, size=tokens).tolist()
    found = mean([completion_of(one, own) for one in dense], weights.tolist(), k=vocabulary)
    expected = np.average(dense, axis=0, weights=weights)
    assert found.signal is not None
    assert found.token_logprobs is not None
    np.testing.assert_allclose(dense_of(found.signal, vocabulary), expected, atol=1e-6)
    np.testing.assert_allclose(found.signal.mass, 1.0, atol=1e-5)
    np.testing.assert_allclose(found.token_logprobs, np.log(expected[np.arange(tokens), own]), atol=1e-5)


def test_a_cut_mean_keeps_k_and_is_too_low_by_no_more_than_what_was_cut() -> None:
    generator = np.random.default_rng(0)
    dense = generator.dirichlet(np.full(50, 0.3), size=(3, 20))
    weights = [1.0, 2.0, 3.0]
    own = [0] * 20
    found = mean([completion_of(one, own, k=8) for one in dense], weights, k=10).signal
    assert found is not None
    assert (np.diff(found.offsets) == 10).all()
    expected = np.average(dense, axis=0, weights=weights)
    kept = np.average([signal_of(one, 8).mass for one in dense], axis=0, weights=weights)
    got = dense_of(found, 50)
    assert (got <= expected + 1e-6).all()
    for token in range(20):
        ids = found.at(token)[0]
        assert (expected[token, ids] - got[token, ids]).max() <= 1 - kept[token] + 1e-6
    np.testing.assert_allclose(found.mass, got.sum(1), atol=1e-6)


def test_teachers_that_read_other_tokens_have_no_mean() -> None:
    dense = np.full((2, 3), 1 / 3)
    with pytest.raises(ValueError, match="different tokens"):
        mean([completion_of(dense, [0, 1]), completion_of(dense, [0, 2])], [1, 1], k=3)
    bare = Completion([1], "text", [0, 1], "stop", None, None)
    with pytest.raises(ValueError, match="no distribution"):
        mean([completion_of(dense, [0, 1]), bare], [1, 1], k=3)
