"""What capture adds to vLLM's workers, where the full distributions are: draws from them, and completions' scores.

vLLM mixes `CaptureWorkerExtension` into its worker class (`worker_extension_cls`). It works with the V1 model runner,
whose sampler it changes in three places; a request says in `extra_args` what it wants of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from vllm.v1.outputs import LogprobsTensors

EXTENSION = f"{__name__}.CaptureWorkerExtension"
"""For vLLM's `worker_extension_cls`."""

_ROWS_AT_ONCE = 256
"""Positions whose logits are held at once: at a vocabulary of 152,064 some 150 MB in float32."""

Key = tuple[int, int]
"""What the draws at a position depend on: the request's seed, and the number of the token in the completion."""


def wanted(*, seed: int, scored_from: int | None = None, forced: Sequence[int] | None = None) -> dict[str, Any]:
    """A request's `extra_args`.

    Args:
        seed: of its draws.
        scored_from: return prompt logprobs from this prompt token on alone, instead of from the second one.
        forced: the tokens to write, whatever the distribution; their logprobs are those of the distribution.
    """
    return {"stillhouse": {"seed": seed, "scored_from": scored_from, "forced": None if forced is None else [*forced]}}


def draw(logprobs: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Tokens drawn with replacement, by inverting the cumulative distribution.

    Args:
        logprobs: [rows, vocab], normalised or not; -inf is never drawn.
        uniforms: [rows, draws], float64 in [0, 1).

    Returns:
        [rows, draws], int64.
    """
    # float32 would round away a tail of 100,000 small steps.
    cumulative = logprobs.double().exp_().cumsum_(-1)
    total = cumulative[:, -1:]
    below = torch.nextafter(total, torch.zeros_like(total))
    return torch.searchsorted(cumulative, torch.minimum(uniforms * total, below), right=True)


def uniforms(keys: Sequence[Key], draws: int) -> NDArray[np.float64]:
    """[keys, draws], float64 in [0, 1): each row depends on its key alone, so on no other request of the batch."""
    return np.stack([np.random.Generator(np.random.Philox(key=key)).random(draws) for key in keys])


class CaptureWorkerExtension:
    """Methods that vLLM adds to its worker."""

    model_runner: Any

    def install_capture(self, draws: int | None) -> list[str]:
        """Change the sampler of this worker.

        Args:
            draws: tokens to draw at each position instead of taking the most probable ones; None to take those.

        Returns:
            What this vLLM lacks; nothing is changed then.
        """
        if missing := list(_missing(self.model_runner)):
            return missing
        _Hook(self.model_runner, draws)
        return []


def _missing(runner: Any) -> Iterator[str]:
    for name in ("input_batch", "requests", "num_prompt_logprobs", "query_start_loc", "_get_prompt_logprobs_dict"):
        if not hasattr(runner, name):
            yield f"model_runner.{name}"
    sampler = getattr(runner, "sampler", None)
    expected = {
        "gather_logprobs": ["logprobs", "num_logprobs", "token_ids"],
        "sample": ["logits", "sampling_metadata"],
        "compute_logprobs": ["logits"],
    }
    for name, parameters in expected.items():
        method = getattr(sampler, name, None)
        if method is None or list(inspect.signature(method).parameters)[: len(parameters)] != parameters:
            yield f"model_runner.sampler.{name}({', '.join(parameters)})"


class _Hook:
    """Stands in for three methods of a model runner and its sampler."""

    def __init__(self, runner: Any, draws: int | None) -> None:
        self.runner, self.draws = runner, draws
        self._gather_most_probable: Callable[..., LogprobsTensors] = runner.sampler.gather_logprobs
        self._sample: Callable[..., tuple[torch.Tensor, torch.Tensor | None]] = runner.sampler.sample
        self._scored: dict[str, list[LogprobsTensors]] = {}
        runner.sampler.gather_logprobs = self.of_completions
        runner.sampler.sample = self.sample
        runner._get_prompt_logprobs_dict = self.of_prompts

    def sample(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As vLLM's, but the tokens that requests are forced to write take the place of those drawn."""
        sampled, processed_logprobs = self._sample(*args, **kwargs)
        rows, tokens = [], []
        for row, request in enumerate(self._requests(len(sampled))):
            forced, position = _asked(request)["forced"], len(request.output_token_ids)
            if forced is not None and position < len(forced):
                rows.append(row)
                tokens.append(forced[position])
        if rows:
            sampled = sampled.clone()
            sampled[rows] = torch.tensor(tokens, dtype=sampled.dtype, device=sampled.device)
        return sampled, processed_logprobs

    def of_completions(self, logprobs: torch.Tensor, num_logprobs: int, token_ids: torch.Tensor) -> LogprobsTensors:
        """In place of `gather_logprobs`: one row a running request."""
        if self.draws is None:
            return self._gather_most_probable(logprobs, num_logprobs, token_ids=token_ids)
        keys = [(_asked(request)["seed"], len(request.output_token_ids)) for request in self._requests(len(logprobs))]
        return self._drawn(logprobs, token_ids, keys)

    def of_prompts(
        self, hidden_states: torch.Tensor, num_scheduled_tokens: Mapping[str, int]
    ) -> dict[str, LogprobsTensors | None]:
        """In place of `_get_prompt_logprobs_dict`: of each prompt only the tokens that are scored."""
        runner, done = self.runner, dict[str, LogprobsTensors | None]()
        for name, width in list(runner.num_prompt_logprobs.items()):
            if name not in num_scheduled_tokens:
                continue
            request = runner.requests[name]
            asked, prompt = _asked(request), request.prompt_token_ids
            began = request.num_computed_tokens
            ended = began + num_scheduled_tokens[name]
            if began == 0:
                # Anew after a preemption.
                self._scored[name] = []
            row = int(runner.query_start_loc.np[runner.input_batch.req_id_to_index[name]])
            # A token's distribution is that of the position before it.
            first, last = max(began, asked["scored_from"] - 1), min(ended, len(prompt) - 1)
            for start in range(first, last, _ROWS_AT_ONCE):
                stop = min(start + _ROWS_AT_ONCE, last)
                logits = runner.model.compute_logits(hidden_states[row + start - began : row + stop - began])
                logprobs = runner.sampler.compute_logprobs(logits)
                tokens = torch.tensor(prompt[start + 1 : stop + 1], dtype=torch.int64, device=logprobs.device)
                if self.draws is None:
                    gathered = self._gather_most_probable(logprobs, width, token_ids=tokens)
                else:
                    keys = [(asked["seed"], position + 1 - asked["scored_from"]) for position in range(start, stop)]
                    gathered = self._drawn(logprobs, tokens, keys)
                self._scored[name].append(LogprobsTensors(*(tensor.cpu() for tensor in gathered[:3])))
            if ended >= len(prompt):
                chunks = zip(*(each[:3] for each in self._scored.pop(name)), strict=True)
                done[name] = LogprobsTensors(*(torch.cat(tensors) for tensors in chunks))
                del runner.num_prompt_logprobs[name]
        return done

    def _requests(self, rows: int) -> list[Any]:
        return [self.runner.requests[name] for name in self.runner.input_batch.req_ids[:rows]]

    def _drawn(self, logprobs: torch.Tensor, token_ids: torch.Tensor, keys: Sequence[Key]) -> LogprobsTensors:
        """Draws in the shape of the most probable tokens: [rows, 1 + draws], the written token first."""
        assert self.draws is not None
        numbers = torch.from_numpy(uniforms(keys, self.draws)).to(logprobs.device)
        ids = torch.cat([token_ids.unsqueeze(-1), draw(logprobs, numbers)], dim=1)
        # Nobody asks for the rank of a token that was drawn.
        ranks = torch.zeros(len(ids), dtype=torch.int64, device=ids.device)
        return LogprobsTensors(ids.to(torch.int32), logprobs.gather(-1, ids), ranks)


def _asked(request: Any) -> dict[str, Any]:
    asked: dict[str, Any] = request.sampling_params.extra_args["stillhouse"]
    return asked
