"""How long something took and how many tokens it wrote, and how a capture's manifest tells that of its last start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_TOKENS, _SECONDS = "last_start_tokens", "last_start_seconds"


@dataclass(frozen=True)
class Timed:
    """One request, or one batch of them: how long it took, in seconds, and how many tokens were written."""

    seconds: float
    tokens: int = 0

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens written a second; None where none were, or no time passed."""
        return self.tokens / self.seconds if self.tokens and self.seconds > 0 else None


def counted(start: Timed) -> dict[str, int | float]:
    """What the manifest counts of a capture's last start; nothing where it wrote no tokens that say how fast it is."""
    return {} if start.tokens_per_s is None else {_TOKENS: start.tokens, _SECONDS: round(start.seconds, 3)}


def last_start(counts: Mapping[str, int | float]) -> Timed | None:
    """The same, read from a manifest's counts; None where they tell nothing of it."""
    if _TOKENS not in counts or _SECONDS not in counts:
        return None
    return Timed(float(counts[_SECONDS]), int(counts[_TOKENS]))
