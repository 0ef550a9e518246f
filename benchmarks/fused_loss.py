"""The fused head beside the plain dense loss: `python -m benchmarks.fused_loss`.

From hidden states and the head's weight to the mixed loss and both gradients, float32, at a temperature of 2:

- fused: `stillhouse.losses.linear` on a signal of the teacher's 64 most probable tokens;
- plain: what one writes without it, on the teacher's dense logits: `log_softmax` of both sides, `kl_div`,
  `cross_entropy`, autograd;
- products: the three matrix products that no way can do without, in chunks like the fused head's and into memory that
  is there already.

Memory is the peak of a process's resident set over what it was with all inputs in place, a process for each side. Times
are taken in one process, in turn. The teacher's logits are an input to the plain side: neither their memory nor the
product that made them counts.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch.nn import functional

from benchmarks.figures import paired, show
from benchmarks.resident import forget_highest, highest, resident
from stillhouse.losses.linear import linear_distillation_loss
from stillhouse.losses.mix import Objective, Targets

K, TEMPERATURE, KD, CE = 64, 2.0, 0.7, 0.3
OBJECTIVE = Objective(kd_weight=KD, ce_weight=CE, temperature=TEMPERATURE)
_MIB = 2**20


def main() -> int:
    """Measure, print a table and one JSON line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fused_loss", description="The fused against the plain.")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--vocabulary", type=int, default=131_072)
    parser.add_argument("--chunk", type=int, default=None, help="tokens a chunk of the fused head; default: its own")
    parser.add_argument("--repetitions", type=int, default=3)
    words = parser.parse_args()
    shape = (words.tokens, words.hidden, words.vocabulary)
    print("{:,} tokens, {:,} features, a vocabulary of {:,}".format(*shape), flush=True)
    memory = {side: _in_a_process(side, shape, words.chunk) for side in ("fused", "plain")}
    print(f"memory (MiB): {memory}", flush=True)
    times = _times(shape, words.chunk, words.repetitions)
    figures = [
        paired("extra peak memory (MiB), over plain", [memory["fused"]], [memory["plain"]], most=1 / 8),
        paired("forward and backward (s), over plain", times["fused"], times["plain"], most=0.5),
        paired("forward and backward (s), over the bare products", times["fused"], times["products"], most=1.15),
    ]
    show(figures)
    print(json.dumps({"benchmark": "fused_loss", "shape": shape, "figures": figures}))
    return 0


class Inputs:
    """Hidden states, the head, and the target tokens; a side's own inputs are made when they are asked for."""

    def __init__(self, tokens: int, hidden: int, vocabulary: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self._generator, self._shape = generator, (tokens, vocabulary)
        self.hidden = torch.randn(tokens, hidden, generator=generator).requires_grad_()
        self.weight = (torch.randn(vocabulary, hidden, generator=generator) / hidden**0.5).requires_grad_()
        self.ids = torch.randint(0, vocabulary, (tokens,), generator=generator)

    def dense(self) -> torch.Tensor:
        """The teacher's logits, [tokens, vocab]."""
        return torch.randn(*self._shape, generator=self._generator).mul_(3)

    def sparse(self) -> Targets:
        """The teacher's signal; which tokens it holds does not change what they cost."""
        tokens, vocabulary = self._shape
        starts = torch.randint(0, vocabulary - K, (tokens, 1), generator=self._generator)
        logprobs = torch.log_softmax(torch.randn(tokens, K, generator=self._generator) * 3, -1)
        ones = torch.ones(tokens)
        return Targets(self.ids, starts + torch.arange(K), logprobs.sort(descending=True).values, kd=ones, ce=ones)

    def forget(self) -> None:
        """Drop the gradients."""
        self.hidden.grad = self.weight.grad = None


def fused(inputs: Inputs, targets: Targets, chunk: int | None) -> None:
    tokens = len(inputs.ids)
    losses = linear_distillation_loss(
        inputs.hidden, inputs.weight, targets, OBJECTIVE, kd_tokens=tokens, ce_tokens=tokens, chunk=chunk
    )
    losses.total.backward()


def plain(inputs: Inputs, teacher_logits: torch.Tensor) -> None:
    logits = inputs.hidden @ inputs.weight.t()
    student = functional.log_softmax(logits / TEMPERATURE, dim=-1)
    teacher = functional.log_softmax(teacher_logits / TEMPERATURE, dim=-1)
    kd = functional.kl_div(student, teacher, log_target=True, reduction="batchmean") * TEMPERATURE**2
    (KD * kd + CE * functional.cross_entropy(logits, inputs.ids)).backward()


class Products:
    """The three matrix products in chunks of tokens, with nothing between them."""

    def __init__(self, inputs: Inputs, chunk: int) -> None:
        self._hidden, self._weight = inputs.hidden.detach(), inputs.weight.detach()
        self._logits = torch.ones(chunk, len(self._weight))
        self._d_hidden, self._d_weight = torch.zeros_like(self._hidden), torch.zeros_like(self._weight)

    def __call__(self) -> None:
        for start in range(0, len(self._hidden), len(self._logits)):
            here = slice(start, start + len(self._logits))
            hidden = self._hidden[here]
            logits = self._logits[: len(hidden)]
            torch.mm(hidden, self._weight.t(), out=logits)
            torch.mm(logits, self._weight, out=self._d_hidden[here])
            self._d_weight.addmm_(logits.t(), hidden)


def _sides(inputs: Inputs, chunk: int | None, names: Sequence[str]) -> dict[str, Callable[[], None]]:
    """What is measured, with its inputs in place."""
    made: dict[str, Callable[[], None]] = {}
    if "fused" in names:
        targets = inputs.sparse()
        made["fused"] = lambda: fused(inputs, targets, chunk)
    if "plain" in names:
        teacher_logits = inputs.dense()
        made["plain"] = lambda: plain(inputs, teacher_logits)
    if "products" in names:
        made["products"] = Products(inputs, chunk or max(1, 256 * _MIB // (4 * len(inputs.weight))))
    return made


def _in_a_process(side: str, shape: tuple[int, int, int], chunk: int | None) -> float:
    """A side's extra peak memory in MiB."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (side, shape, chunk))


def _peak(side: str, shape: tuple[int, int, int], chunk: int | None) -> float:
    # What the libraries take once is not the loss's.
    _sides(Inputs(8, 64, 1024), None, [side])[side]()
    run = _sides(Inputs(*shape), chunk, [side])[side]
    before = resident()
    forget_highest()
    run()
    return highest() - before


def _times(shape: tuple[int, int, int], chunk: int | None, repetitions: int) -> dict[str, list[float]]:
    """Seconds of every side, in turn; which comes first changes from round to round."""
    inputs = Inputs(*shape)
    sides = _sides(inputs, chunk, ["fused", "plain", "products"])
    names = list(sides)
    sides["products"]()  # warm
    found: dict[str, list[float]] = {name: [] for name in names}
    for repetition in range(repetitions):
        for name in names[repetition % 3 :] + names[: repetition % 3]:
            inputs.forget()
            began = time.perf_counter()
            sides[name]()
            found[name].append(time.perf_counter() - began)
        print(
            f"round {repetition + 1} (s): { {name: round(taken[-1], 2) for name, taken in found.items()} }", flush=True
        )
    return found


if __name__ == "__main__":
    sys.exit(main())
