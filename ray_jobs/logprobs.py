"""From vLLM's flat logprobs to a signal, array by array."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillhouse.signal.sparse import SparseSignal, captured


def most_probable(flat: Any, tokens: int) -> tuple[list[float], SparseSignal]:
    """The written tokens' logprobs, and the most probable tokens.

    Args:
        flat: vLLM's `FlatLogprobs`, of a completion or of a prompt.
        tokens: how many tokens of it are meant, the last ones: a prompt's first token has no logprobs.

    Returns:
        [tokens] logprobs in nats, and a signal whose entries are finite: what a contract rules out is left out.

    Raises:
        RuntimeError: vLLM gave less than it was asked for, or in another order.
    """
    written, offsets, ids, logprobs, ranks = _entries(flat, tokens)
    expected = np.arange(1, len(ids) + 1) - np.repeat(offsets[:-1], np.diff(offsets))
    if not np.array_equal(ranks, expected):
        raise RuntimeError("vLLM's logprobs are not in rank order: this version cannot be captured from")
    finite = np.isfinite(logprobs)
    before = np.concatenate([[0], np.cumsum(finite)])
    kept = before[offsets]
    return written, SparseSignal(ids[finite], logprobs[finite], kept, captured(logprobs[finite], kept))


def drawn(flat: Any, tokens: int, draws: int) -> tuple[list[float], SparseSignal]:
    """The written tokens' logprobs, and how often each token was drawn; as `most_probable`."""
    written, offsets, ids, _, _ = _entries(flat, tokens)
    # One number a token and id, so that one sort counts them all.
    base = int(ids.max(initial=0)) + 1
    found, counts = np.unique(np.repeat(np.arange(tokens), np.diff(offsets)) * base + ids, return_counts=True)
    token = found // base
    order = np.lexsort((found, -counts, token))
    starts = np.searchsorted(token, np.arange(tokens + 1))
    return written, SparseSignal.of_draws((found % base)[order].astype(np.int32), counts[order], starts, draws)


def written_logprobs(flat: Any, tokens: int) -> list[float]:
    """The written tokens' logprobs alone; as `most_probable`."""
    return _entries(flat, tokens)[0]


def _entries(
    flat: Any, tokens: int
) -> tuple[list[float], NDArray[np.int64], NDArray[np.int32], NDArray[np.float32], NDArray[np.int64]]:
    """The written tokens' logprobs, then offsets, ids, logprobs and ranks of all other entries."""
    starts = np.asarray(flat.start_indices[len(flat.start_indices) - tokens :], np.int64)
    ends = np.asarray(flat.end_indices[len(flat.end_indices) - tokens :], np.int64)
    if len(starts) != tokens or (ends <= starts).any():
        missing = tokens - int((ends > starts).sum())
        raise RuntimeError(
            f"vLLM gave logprobs for {tokens - missing} of {tokens} tokens: nothing can be distilled from that"
        )
    logprobs = np.asarray(flat.logprobs, np.float32)
    others = np.zeros(len(logprobs), bool)
    others[starts[0] if tokens else len(logprobs) :] = True
    # vLLM puts the written token first, whatever its rank, and the others after it; it may be among them again.
    others[starts] = False
    offsets = np.concatenate([[0], np.cumsum(ends - starts - 1)])
    ids = np.asarray(flat.token_ids, np.int32)[others]
    return logprobs[starts].tolist(), offsets, ids, logprobs[others], np.asarray(flat.ranks, np.int64)[others]
