"""A vLLM engine for batches: prompts in, completions with their token distributions out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ray_jobs import logprobs
from ray_jobs.placement import executor, own_cpus
from stillhouse.engine_arguments import engine_arguments, engine_environment
from stillhouse.errors import UserError
from stillhouse.models import load_tokenizer, resolve
from stillhouse.recipe import Capture, Engine, Task
from stillhouse.signal.cut import cut
from stillhouse.signal.schema import Completion
from stillhouse.signal.sparse import SparseSignal
from stillhouse.task import decoding

if TYPE_CHECKING:
    from vllm import SamplingParams

Made = TypeVar("Made")


class BatchEngine:
    """One vLLM engine in this process, for one task.

    Args:
        model: as `stillhouse.models.resolve` takes it.
        capture: which signal is kept: `mode`, `top_k`, `mass` and `draws`.
        scores: whether `score` will be called; it needs a hook in vLLM's worker, as `mode: sampled` does.

    Attributes:
        llm: vLLM's own engine.
        version: of vLLM.
        tokenizer: the model's.
        max_model_len: longest prompt and completion together, in tokens.

    Raises:
        UserError: no such model, vLLM refuses the settings, or it lacks the hook.
    """

    def __init__(self, model: str, engine: Engine, task: Task, capture: Capture, *, scores: bool = False) -> None:
        self._capture, self._scores = capture, scores
        self._hooked = scores or capture.mode == "sampled"
        for name, value in engine_environment(engine, own_cpus(engine)).items():
            os.environ.setdefault(name, value)
        # In this process, so that the engine ends with its actor and a kill leaves nothing behind.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        if self._hooked:
            # The hook knows the V1 model runner, and newer GPUs would get the other one.
            os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")
        import vllm

        self.version: str = vllm.__version__
        self.max_model_len = engine.max_model_len
        self.tokenizer = load_tokenizer(model)
        self._decoding = decoding(task, self.tokenizer)
        self._entries = {"topk": capture.top_k, "sampled": capture.draws, "text": 0}[capture.mode]
        try:
            self.llm = vllm.LLM(model=resolve(model), **self.arguments(engine, task))
        except ValueError as error:
            raise UserError(f"vLLM refuses to run {model}: {_sentence(error)}") from error
        if self._hooked:
            self._install()

    def arguments(self, engine: Engine, task: Task) -> dict[str, Any]:
        """vLLM's engine arguments, save for the model."""
        from ray_jobs.vllm_worker import EXTENSION

        return {
            **engine_arguments(engine, task),
            "distributed_executor_backend": executor(engine),
            "max_logprobs": self._entries,
            "disable_log_stats": True,
            **({"worker_extension_cls": EXTENSION} if self._hooked else {}),
        }

    @property
    def dtype(self) -> str:
        """The type that the engine really computes in, such as `float32`."""
        return str(self.llm.llm_engine.model_config.dtype).removeprefix("torch.")

    def complete(
        self, prompts: Sequence[Sequence[int]], *, n: int = 1, seeds: Sequence[int] | None = None
    ) -> list[list[Completion]]:
        """Completions under the task's contract.

        What is drawn for a prompt, tokens and `sampled` signal, depends on its seed and its distributions alone, so on
        no other prompt. The distributions themselves differ in the last bits with the batch that a prompt is in, as on
        any engine, and that can turn a draw.

        Args:
            prompts: token ids, each at most `max_model_len` less the task's `max_tokens`.
            n: completions of each.
            seeds: one a prompt, 0 to 2**32 - 1; default: the prompt's number.
        """
        given = range(len(prompts)) if seeds is None else seeds
        each = [(prompt, _seed(seed, i)) for prompt, seed in zip(prompts, given, strict=True) for i in range(n)]
        parameters = [self._parameters(self._decoding, seed) for _, seed in each]
        made = self._each([prompt for prompt, _ in each], parameters, lambda _, output: self._completion(output))
        return [made[start : start + n] for start in range(0, len(made), n)]

    def score(
        self,
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int]],
        *,
        seeds: Sequence[int] | None = None,
    ) -> list[Completion | None]:
        """The signal of completions that exist: the one that the engine would have given had it written them.

        Free text is read as part of the prompt, in one pass. Under a contract the engine writes it token by token, so
        that the same grammar rules out the same tokens; None for a completion that the contract does not allow.

        Args:
            completions: token ids, at least one each, with the end of the sequence where it belongs to them; together
                with the prompt shorter than `max_model_len`.
            seeds: as for `complete`.
        """
        if not self._scores:
            raise RuntimeError("this engine was started without `scores`")
        given = [_seed(seed, 0) for seed in (range(len(prompts)) if seeds is None else seeds)]
        if "structured_outputs" in self._decoding:
            return self._forced(prompts, completions, given)
        parameters = [
            self._parameters({"temperature": 0.0, "max_tokens": 1}, seed, scored_from=len(prompt))
            for prompt, seed in zip(prompts, given, strict=True)
        ]
        whole = [[*prompt, *completion] for prompt, completion in zip(prompts, completions, strict=True)]

        def scored(i: int, output: Any) -> Completion:
            return self._scored(prompts[i], list(completions[i]), output.prompt_logprobs)

        return list(self._each(whole, parameters, scored))

    def _forced(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], seeds: Sequence[int]
    ) -> list[Completion | None]:
        settings = {name: value for name, value in self._decoding.items() if name not in ("top_p", "stop")}
        parameters = [
            self._parameters({**settings, "temperature": 0.0, "max_tokens": len(ids)}, seed, forced=list(ids))
            for ids, seed in zip(completions, seeds, strict=True)
        ]

        def scored(i: int, output: Any) -> Completion | None:
            written = output.outputs[0]
            # The grammar ends a request whose token it does not allow.
            if list(written.token_ids) != list(completions[i]):
                return None
            found = self._scored(prompts[i], list(written.token_ids), written.logprobs)
            return found if np.isfinite(found.token_logprobs or []).all() else None

        return self._each(prompts, parameters, scored)

    def _parameters(self, settings: Mapping[str, Any], seed: int, **asked: Any) -> SamplingParams:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        from ray_jobs.vllm_worker import wanted

        settings = dict(settings)
        if constraint := settings.pop("structured_outputs", None):
            settings["structured_outputs"] = StructuredOutputsParams(**constraint)
        kind = "prompt_logprobs" if "scored_from" in asked else "logprobs"
        return SamplingParams(
            **settings,
            **{kind: self._entries},
            seed=seed,
            flat_logprobs=True,
            output_kind=RequestOutputKind.FINAL_ONLY,
            # It would be done for every entry of the signal; a stop text is found in no other way.
            detokenize="stop" in settings,
            extra_args=wanted(seed=seed, **asked) if self._hooked else None,
        )

    def _each(
        self,
        prompts: Sequence[Sequence[int]],
        parameters: Sequence[SamplingParams],
        made_of: Callable[[int, Any], Made],
    ) -> list[Made]:
        """What `made_of` makes of each prompt's number and output.

        It is made as soon as a prompt is done: as Python numbers, the logprobs of a whole part would fill gigabytes.
        """
        engine = self.llm.llm_engine
        for i, (ids, asked) in enumerate(zip(prompts, parameters, strict=True)):
            engine.add_request(str(i), {"type": "token", "prompt_token_ids": list(ids)}, asked)
        made: dict[int, Made] = {}
        while engine.has_unfinished_requests():
            for output in engine.step():
                made[int(output.request_id)] = made_of(int(output.request_id), output)
        return [made[i] for i in range(len(prompts))]

    def _completion(self, output: Any) -> Completion:
        written = output.outputs[0]
        scored = self._scored(output.prompt_token_ids, list(written.token_ids), written.logprobs)
        # Only vLLM knows where a stop text began.
        text = written.text if "stop" in self._decoding else scored.text
        return replace(scored, text=text, finish_reason=written.finish_reason)

    def _scored(self, prompt: Sequence[int], token_ids: list[int], flat: Any) -> Completion:
        token_logprobs, signal = self._signal(flat, len(token_ids))
        return Completion(
            prompt_token_ids=list(prompt),
            text=self.tokenizer.decode(token_ids, skip_special_tokens=True),
            token_ids=token_ids,
            finish_reason="stop" if token_ids[-1:] == [self.tokenizer.eos_token_id] else "length",
            token_logprobs=token_logprobs,
            signal=signal,
        )

    def _signal(self, flat: Any, tokens: int) -> tuple[list[float], SparseSignal | None]:
        if self._capture.mode == "text":
            return logprobs.written_logprobs(flat, tokens), None
        if self._capture.mode == "sampled":
            return logprobs.drawn(flat, tokens, self._capture.draws)
        written, signal = logprobs.most_probable(flat, tokens)
        return written, signal if self._capture.mass is None else cut(signal, self._capture.mass)

    def _install(self) -> None:
        draws = self._capture.draws if self._capture.mode == "sampled" else None
        lacking = self.llm.collective_rpc("install_capture", args=(draws,))
        if missing := sorted({name for worker in lacking for name in worker}):
            needs = "`capture.mode: sampled`" if draws else "scoring completions"
            works = "`capture.mode: topk`" if draws else "`capture.completions: teacher`"
            raise UserError(
                f"vLLM {self.version} has no {missing[0]} in its worker, which {needs} needs: use {works}, or vLLM 0.32"
                " with its V1 model runner"
            )


def _seed(seed: int, sample: int) -> int:
    """Of one of a prompt's completions; 63 bits, as vLLM takes."""
    return int(np.random.SeedSequence([seed, sample]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _sentence(error: Exception) -> str:
    """The line of an error that says what is wrong; pydantic's first one only counts."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines[1:] if "rror" in line), lines[0] if lines else type(error).__name__)
