"""From vLLM's flat logprobs to signals: by rank, whatever the order of a dictionary."""

from __future__ import annotations

import math
from typing import Any

import pytest
from vllm.logprobs import FlatLogprobs

from ray_jobs.logprobs import drawn, most_probable, written_logprobs


def flat(*positions: tuple[int, list[tuple[int, float]]]) -> Any:
    """At each position the written token's rank, then the written token and the others, as vLLM lays them out."""
    made = FlatLogprobs()
    for rank, entries in positions:
        ids, logprobs = [token for token, _ in entries], [logprob for _, logprob in entries]
        ranks = iter([rank, *range(1, len(entries))])
        made.append_fast(ids, logprobs, ranks, [None] * len(entries))  # type: ignore[arg-type]
    return made


def test_the_written_token_is_not_counted_among_the_top() -> None:
    written, signal = most_probable(
        flat(
            (9, [(9, -4.0), (5, -0.25), (6, -2.0)]),  # written outside the top two
            (1, [(5, -0.5), (5, -0.5), (7, -1.5)]),  # written the most probable one
        ),
        2,
    )
    assert written == [-4.0, -0.5]
    assert signal.ids.tolist() == [5, 6, 5, 7]
    assert signal.logprobs.tolist() == [-0.25, -2.0, -0.5, -1.5]
    assert signal.offsets.tolist() == [0, 2, 4]
    assert signal.mass.tolist() == pytest.approx([math.exp(-0.25) + math.exp(-2), math.exp(-0.5) + math.exp(-1.5)])


def test_tokens_that_the_contract_rules_out_are_dropped() -> None:
    positions = [(1, [(5, 0.0), (5, 0.0), (6, -math.inf)]), (1, [(6, -0.5), (6, -0.5), (8, -1.0)])]
    written, signal = most_probable(flat(*positions), 2)
    assert written == [0.0, -0.5]
    assert (signal.at(0)[0].tolist(), signal.at(1)[0].tolist()) == ([5], [6, 8])


def test_of_a_prompt_the_last_tokens_are_meant() -> None:
    prompt = FlatLogprobs()
    prompt.append(None)
    for position in flat((2, [(4, -1.5), (6, -0.5)]), (2, [(3, -3.0), (8, -0.25)])):
        prompt.append(position)
    written, signal = most_probable(prompt, 1)
    assert written == [-3.0]
    assert signal.ids.tolist() == [8]
    assert written_logprobs(prompt, 2) == [-1.5, -3.0]
    with pytest.raises(RuntimeError, match="logprobs for 2 of 3 tokens"):
        written_logprobs(prompt, 3)


def test_missing_logprobs_stop_the_job() -> None:
    with pytest.raises(RuntimeError, match="logprobs for 1 of 2 tokens: nothing can be distilled"):
        most_probable(flat((1, [(5, 0.0), (5, 0.0)])), 2)


def test_another_order_stops_the_job() -> None:
    made = flat((1, [(5, 0.0), (5, 0.0), (6, -1.0)]))
    made.ranks[1:] = made.ranks[:0:-1]
    with pytest.raises(RuntimeError, match="not in rank order"):
        most_probable(made, 1)


def test_draws_are_counted() -> None:
    entries = [(7, -0.9), (7, -0.9), (3, -1.2), (7, -0.9), (9, -5.0)]
    written, signal = drawn(flat((0, entries), (0, [(2, -0.1), (3, 0), (3, 0), (3, 0), (3, 0)])), 2, 4)
    assert written == pytest.approx([-0.9, -0.1])
    assert signal.ids.tolist() == [7, 3, 9, 3]
    assert signal.logprobs.tolist() == pytest.approx([math.log(0.5), math.log(0.25), math.log(0.25), 0.0])
    assert signal.offsets.tolist() == [0, 3, 4]
    assert (signal.draws, signal.mass.tolist()) == (4, [1, 1])
