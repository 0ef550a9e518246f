"""The signal's columns: every distribution comes back, as near as promised, whatever its shape."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from distributions import VOCABULARY, divergence, joined, sampled_signals, topk_signals
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.errors import UserError
from stillhouse.signal.columns import SIGNAL_FIELDS, signal_columns, signals, steps
from stillhouse.signal.schema import read_table, write_table
from stillhouse.signal.sparse import SparseSignal, token_sums

SCHEMA = pyarrow.schema(SIGNAL_FIELDS)


def stored(found: list[SparseSignal | None]) -> list[SparseSignal | None]:
    """Through a Parquet file and back."""
    table = pyarrow.Table.from_arrays(signal_columns(found), schema=SCHEMA)
    return signals(read_table(write_table(table, {}), name="part"))


def again(signal: SparseSignal) -> SparseSignal:
    (back,) = stored([signal])
    assert back is not None
    return back


def same(one: SparseSignal | None, other: SparseSignal | None) -> bool:
    if one is None or other is None:
        return one is other
    arrays = ("ids", "logprobs", "offsets", "mass")
    return one.draws == other.draws and all(np.array_equal(getattr(one, name), getattr(other, name)) for name in arrays)


@given(topk_signals())
@settings(max_examples=200, deadline=None)
def test_a_distribution_comes_back(signal: SparseSignal) -> None:
    back = again(signal)

    assert np.array_equal(back.offsets, signal.offsets)
    assert np.array_equal(back.mass, signal.mass), "to the bit"
    assert back.draws is None
    assert (back.ids.dtype, back.logprobs.dtype) == (np.int32, np.float32)
    assert np.isfinite(back.logprobs).all()
    held = token_sums(np.exp(back.logprobs.astype(np.float64)), back.offsets)
    np.testing.assert_allclose(held, signal.mass, rtol=1e-4)
    for token in range(len(back)):
        assert (np.diff(back.at(token)[1]) <= 0).all(), "in rank order"
    # Measured: 8e-4 on average for the worst shape, 64 equal entries, and 1.1e-3 for the worst of 300 of them.
    assert (divergence(signal, back) < 2e-3).all()
    assert (divergence(signal, back, temperature=2.0) < 3e-3).all()


@given(topk_signals(entries=(1, 2, 3), least=1))
@settings(max_examples=200, deadline=None)
def test_a_choice_among_few_is_nearly_exact(signal: SparseSignal) -> None:
    back = again(signal)

    assert (divergence(signal, back) < 6e-5).all()
    for token in range(len(signal)):
        ours, theirs = (one.at(token) for one in (back, signal))
        probabilities = [np.exp(logprobs[np.argsort(ids)]) for ids, logprobs in (ours, theirs)]
        assert np.abs(probabilities[0] - probabilities[1]).max() < 0.005


@pytest.mark.parametrize("entries", [2, 8, 20, 25, 32, 64, 128, 256])
@pytest.mark.parametrize("scale", [0.03, 0.3, 1.0, 3.0, 10.0])
def test_on_average_the_divergence_is_below_a_thousandth(entries: int, scale: float) -> None:
    generator = np.random.default_rng(entries)
    logits = np.sort(generator.standard_normal((200, entries)) * scale)[:, ::-1]
    logprobs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    signal = joined([np.arange(entries)] * 200, list(logprobs))

    found = divergence(signal, again(signal)).mean()

    assert found < 1e-3
    # What `steps` says of n like entries, and a little more: 256 all but equal ones share two levels.
    assert found < 1.3 * 2 / 3 * np.sqrt(entries) / steps(np.array([entries]))[0] ** 2


@given(topk_signals(entries=(3, 20, 64), least=1))
@settings(max_examples=100, deadline=None)
def test_ranks_stay_but_for_near_ties(signal: SparseSignal) -> None:
    back = again(signal)

    for token in range(len(signal)):
        (before, logprobs), (after, _) = signal.at(token), back.at(token)
        roots = dict(zip(before.tolist(), np.exp(logprobs / 4) / signal.mass[token] ** 0.25, strict=True))
        step = 1 / steps(signal.counts)[token]
        order = [roots[token_id] for token_id in after.tolist()]
        assert all(later < earlier + step * 1.001 for earlier, later in itertools.pairwise(order))


@given(sampled_signals())
@settings(max_examples=100, deadline=None)
def test_draws_come_back_exactly(signal: SparseSignal) -> None:
    back = again(signal)

    assert back.draws == signal.draws
    assert np.array_equal(back.ids, signal.ids)
    np.testing.assert_allclose(back.logprobs, signal.logprobs, rtol=1e-6, atol=1e-7)
    assert (back.mass == 1).all()
    assert same(again(back), back), "a second time changes nothing"


@given(st.lists(st.one_of(st.none(), topk_signals(), sampled_signals()), max_size=6), st.data())
@settings(max_examples=100, deadline=None)
def test_rows_do_not_depend_on_each_other(found: list[SparseSignal | None], data: st.DataObject) -> None:
    alone = [stored([signal])[0] for signal in found]
    together = stored(found)
    assert all(map(same, together, alone))

    table = pyarrow.Table.from_arrays(signal_columns(found), schema=SCHEMA)
    start = data.draw(st.integers(0, len(found)))
    assert all(map(same, signals(table.slice(start)), alone[start:])), "of a slice, as filters and splits make them"
    twice = pyarrow.concat_tables([table, table.slice(start), table.slice(0, 0)])
    assert all(map(same, signals(twice), [*alone, *alone[start:]])), "of several chunks"
    kept = data.draw(st.lists(st.booleans(), min_size=len(found), max_size=len(found)))
    chosen = signals(table.filter(pyarrow.array(kept, pyarrow.bool_())))
    assert all(map(same, chosen, [one for one, keep in zip(alone, kept, strict=True) if keep]))


def test_nothing_at_all() -> None:
    assert stored([]) == []
    assert stored([None]) == [None]
    (empty,) = stored([SparseSignal.of([], [])])
    assert empty is not None
    assert (len(empty), empty.draws) == (0, None)
    (nothing,) = stored([SparseSignal.of([[], [3], []], [[], [-0.5], []])])
    assert nothing is not None
    assert nothing.counts.tolist() == [0, 1, 0], "a token that the teacher told nothing of stays one"


def test_ids_to_the_end_of_any_vocabulary() -> None:
    ids = [0, VOCABULARY - 1, 2**31 - 1]
    back = again(SparseSignal.of([ids], [[-1.0, -1.1, -1.2]]))
    assert back.ids.tolist() == ids


def test_what_is_next_to_impossible_stays_finite() -> None:
    # OpenAI tells -9999 of a token without any probability; exp of it is 0 in every float.
    back = again(SparseSignal.of([[1, 2], [3, 4]], [[0.0, -9999.0], [-9999.0, -9999.0]]))
    assert np.isfinite(back.logprobs).all()
    assert back.logprobs[0] == pytest.approx(0, abs=1e-3)
    assert back.logprobs[1] < -15
    assert (back.logprobs[2:] < -80).all()


def test_equal_levels_are_in_the_order_of_their_ids() -> None:
    back = again(SparseSignal.of([[9, 5, 7]], [[-1.0, -1.0001, -1.0002]]))
    assert back.ids.tolist() == [5, 7, 9]


def test_the_ids_stand_in_the_file_as_they_are() -> None:
    ids, levels, counts, mass = signal_columns(
        [SparseSignal.of([[9, 5]], [[-0.2, -1.8]]), SparseSignal.of_draws(*draws([9, 5], [4, 1]), 5), None]
    )
    assert ids.to_pylist() == [[[5, 9]], [[5, 9]], None]
    assert counts.to_pylist() == [None, [[1, 4]], None]
    assert (mass.to_pylist()[0][0], mass.to_pylist()[1:]) == (pytest.approx(0.984, abs=1e-3), [[1.0], None])
    assert levels.to_pylist()[1:] == [None, None]
    low, high = levels.to_pylist()[0][0]
    assert low < high <= 255


def draws(ids: list[int], counts: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.array(ids, np.int32), np.array(counts), np.array([0, len(ids)])


def test_draws_must_add_up_and_fit() -> None:
    with pytest.raises(ValueError, match="add up to 6 draws"):
        SparseSignal.of_draws(*draws([9, 5], [4, 1]), 6)
    with pytest.raises(ValueError, match="300 draws are not between"):
        signal_columns([SparseSignal.of_draws(*draws([9, 5], [200, 100]), 300)])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"top_ids": [[[5], [9]]]}, "do not belong together"),
        ({"mass": [[0.5, 0.5]]}, "do not belong together"),
        ({"top_levels": [None]}, "do not belong together"),
        ({"top_counts": [[[1, 1]]]}, "do not belong together"),
        ({"top_ids": [[[5]]]}, "lacks the probability of a token, or its id"),
        (
            {"top_levels": [None], "top_counts": [[[1, 1], [1]]], "top_ids": [[[5, 9], [3]]], "mass": [[1, 1]]},
            "row 1 holds tokens drawn more often",
        ),
    ],
)
def test_columns_that_contradict_each_other_are_refused(changes: dict[str, list[object]], told: str) -> None:
    row = {"top_ids": [[[5, 9]]], "top_levels": [[[7, 70]]], "top_counts": [None], "mass": [[0.9]]}
    assert signals(pyarrow.table(row, schema=SCHEMA))[0] is not None
    with pytest.raises(UserError, match=f"^part.*{told}.*: capture again$"):
        signals(pyarrow.table({**row, **changes}, schema=SCHEMA), name="part")


def test_a_table_without_signal_columns_is_refused() -> None:
    with pytest.raises(UserError, match="x has no column 'top_ids': capture again"):
        signals(pyarrow.table({"id": ["a"]}), name="x")
