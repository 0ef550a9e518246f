"""`student.divergence`: what is minimised between the teacher's distribution and the student's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from stillhouse.recipe.section import Section

DivergenceKind = Literal[
    "forward_kl", "reverse_kl", "jensen_shannon", "skew_kl", "skew_reverse_kl", "adaptive_kl", "total_variation"
]
Tail = Literal["renormalise", "bucket", "sampled"]

_BETA, _SKEW = 0.5, 0.1


class Divergence(Section):
    """What is minimised between the teacher's distribution and the student's."""

    kind: DivergenceKind = Field(
        default="forward_kl",
        description="`forward_kl` KL(teacher ‖ student); `reverse_kl` KL(student ‖ teacher); `jensen_shannon`,"
        " generalised by `beta` (GKD); `skew_kl` and `skew_reverse_kl`, mixed by `skew` (DistiLLM); `adaptive_kl`, both"
        " KLs weighted by where the two differ (AKL); `total_variation`.",
    )
    beta: float = Field(
        default=_BETA, gt=0, lt=1, description="For `jensen_shannon`: the teacher's share of the mixture."
    )
    skew: float = Field(
        default=_SKEW, gt=0, lt=1, description="For the skew KLs: the share of its first side in the mixture."
    )
    tail: Tail | None = Field(
        default=None,
        description="What stands for the tokens that the teacher's signal leaves out: `renormalise` gives them a"
        " probability of zero; `bucket` makes one outcome of them all; `sampled` is for signal that was drawn. Default:"
        " `sampled` for `capture.mode: sampled`, else `renormalise`.",
    )

    def problems(self) -> Iterator[str]:
        if self.beta != _BETA and self.kind != "jensen_shannon":
            yield "`beta` goes with `kind: jensen_shannon`"
        if self.skew != _SKEW and self.kind not in ("skew_kl", "skew_reverse_kl"):
            yield "`skew` goes with `kind: skew_kl` and `kind: skew_reverse_kl`"
        if self.tail == "renormalise" and self.kind in ("reverse_kl", "adaptive_kl"):
            yield (
                f"`{self.kind}` is infinite where the student gives probability to what the teacher gives none, as"
                " `tail: renormalise` says of all tokens but the stored: use `tail: bucket`"
            )
        if self.tail == "sampled" and self.kind != "forward_kl":
            yield f"draws estimate `forward_kl` alone without bias, not `{self.kind}`"
