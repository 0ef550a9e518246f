"""The softmaxes of a chunk of logits, at one temperature or two, in the place of the logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

_BLOCK_BYTES = 8 * 2**20
"""Of logits that a CPU's core works on in several passes: few enough for the caches; with fewer still, threads would
wait for each other at the end of every pass, which is long where something else runs too."""


class Exponentials:
    """exp(z / T - max) of [tokens, vocab] logits z, which are overwritten.

    Args:
        logits: float32 or float64.
        temperatures: one, or two of which the second is 1.

    Attributes:
        tails: temperature -> [tokens], logsumexp(z / T) over the vocabulary.
    """

    def __init__(self, logits: torch.Tensor, temperatures: Sequence[float]) -> None:
        self._softened, self._plain = logits, None
        self._temperature, self._both = temperatures[0], len(temperatures) > 1
        # exp(z) is the square of exp(z / 2): no second exp, and no place for it.
        self._squared = self._both and self._temperature == 2
        if self._both and not self._squared:
            self._plain = logits.clone()
        sums = [logits.new_empty(len(logits), 1) for _ in temperatures]
        greatest = logits.new_empty(len(logits), 1)
        for rows in _blocks(logits):
            block = logits[rows]
            greatest[rows] = block.amax(-1, keepdim=True)
            sums[0][rows] = _exponentiate(block, greatest[rows], self._temperature)
            if self._squared:
                sums[1][rows] = torch.linalg.vector_norm(block, dim=-1, keepdim=True).square_()
            elif self._plain is not None:
                sums[1][rows] = _exponentiate(self._plain[rows], greatest[rows], 1.0)
        self._sums = sums
        self.tails = {
            temperature: (greatest / temperature + total.log())[:, 0]
            for temperature, total in zip(temperatures, sums, strict=True)
        }

    def gradient_(self, d_tails: Sequence[torch.Tensor]) -> None:
        """Overwrite the logits once more: Σ dF/dtail_T · softmax(z / T) / T.

        Args:
            d_tails: dF/dtail_T [tokens] of every temperature.
        """
        shares = [given[:, None] / total for given, total in zip(d_tails, self._sums, strict=True)]
        shares[0] /= self._temperature
        scratch: torch.Tensor | None = None
        for rows in _blocks(self._softened):
            block = self._softened[rows]
            if self._squared:
                scratch = torch.empty_like(block) if scratch is None else scratch[: len(block)]
                block *= torch.mul(block, shares[1][rows], out=scratch).add_(shares[0][rows])
                continue
            block *= shares[0][rows]
            if self._plain is not None:
                block.addcmul_(self._plain[rows], shares[1][rows])


def _exponentiate(block: torch.Tensor, greatest: torch.Tensor, temperature: float) -> torch.Tensor:
    """In place exp((block - greatest) / temperature), and its sums."""
    block -= greatest
    if temperature != 1:
        # A vectorised product takes half the time of a division.
        block *= 1 / temperature
    return block.exp_().sum(-1, keepdim=True)


def _blocks(logits: torch.Tensor) -> Iterator[slice]:
    """Rows that are worked on at once; all of them where there is no cache to stay in."""
    size = max(1, len(logits))
    if logits.device.type == "cpu":
        size = max(1, torch.get_num_threads() * _BLOCK_BYTES // (logits.shape[-1] * logits.element_size()))
    return (slice(start, start + size) for start in range(0, len(logits), size))
