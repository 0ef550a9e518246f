"""A vLLM engine for batches: prompts in, completions with their token distributions out."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from typing import Any

from stillhouse.models import load_tokenizer, resolve
from stillhouse.recipe import Engine, Task
from stillhouse.signal.schema import Completion
from stillhouse.signal.sparse import SparseSignal
from stillhouse.task import decoding, logprobs_mode


def actor_resources(engine: Engine, actors: int) -> dict[str, Any]:
    """What Ray sets aside for one actor that holds an engine: its GPUs, or its share of this machine's cores."""
    if engine.device == "cpu":
        return {"num_cpus": engine.cpus or max(1, (os.cpu_count() or 1) // actors)}
    gpus = engine.tensor_parallel_size * engine.pipeline_parallel_size
    return {
        "num_gpus": gpus,
        **({"accelerator_type": engine.accelerator_type} if engine.accelerator_type else {}),
    }


class BatchEngine:
    """One vLLM engine in this process, for one task."""

    def __init__(self, model: str, engine: Engine, task: Task, *, top_k: int) -> None:
        if engine.device == "cpu" and engine.cpus is None:
            # vLLM would leave one core idle, which is half of a small laptop.
            os.environ.setdefault("VLLM_CPU_NUM_OF_RESERVED_CPU", "0")
        # In this process, so that the engine ends with its actor and a kill leaves nothing behind.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        import vllm

        self.version = vllm.__version__
        self.top_k = top_k
        self.max_model_len = engine.max_model_len
        self._decoding = decoding(task, load_tokenizer(model))
        self._llm = vllm.LLM(
            model=resolve(model),
            dtype=engine.dtype,
            max_model_len=engine.max_model_len,
            max_num_seqs=engine.max_num_seqs,
            tensor_parallel_size=engine.tensor_parallel_size,
            pipeline_parallel_size=engine.pipeline_parallel_size,
            max_logprobs=top_k,
            logprobs_mode=logprobs_mode(task),
            enforce_eager=engine.device == "cpu",
            # Reused prefixes are not scored, so their logprobs would be lost.
            enable_prefix_caching=False,
            disable_log_stats=True,
            seed=0,
            **_memory(engine),
        )

    @property
    def dtype(self) -> str:
        """The type that the engine really computes in, such as `float32`."""
        return str(self._llm.llm_engine.model_config.dtype).removeprefix("torch.")

    def complete(self, prompts: Sequence[Sequence[int]]) -> list[Completion]:
        """Completions under the task's contract.

        Args:
            prompts: token ids, each at most `max_model_len` less the task's `max_tokens`.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        settings = dict(self._decoding)
        if constraint := settings.pop("structured_outputs", None):
            settings["structured_outputs"] = StructuredOutputsParams(**constraint)
        parameters = SamplingParams(**settings, logprobs=self.top_k, flat_logprobs=True)
        inputs = [{"prompt_token_ids": list(ids)} for ids in prompts]
        outputs = self._llm.generate(inputs, parameters, use_tqdm=False)
        return [_completion(output.prompt_token_ids, output.outputs[0]) for output in outputs]


def _memory(engine: Engine) -> dict[str, Any]:
    if engine.device == "cuda":
        return {"gpu_memory_utilization": engine.gpu_memory_utilization}
    # In bytes, where VLLM_CPU_KVCACHE_SPACE takes whole GiB only.
    return {"kv_cache_memory_bytes": int(engine.kv_cache_gb * 2**30)}


def _completion(prompt_token_ids: Iterable[int], output: Any) -> Completion:
    flat = output.logprobs
    token_logprobs: list[float] = []
    top_ids: list[list[int]] = []
    top_logprobs: list[list[float]] = []
    for start, end in zip(flat.start_indices, flat.end_indices, strict=True):
        # vLLM puts the sampled token first, whatever its rank, and the top k in rank order after it.
        token_logprobs.append(flat.logprobs[start])
        kept = [i for i in range(start + 1, end) if math.isfinite(flat.logprobs[i])]
        top_ids.append([flat.token_ids[i] for i in kept])
        top_logprobs.append([flat.logprobs[i] for i in kept])
    if len(token_logprobs) != len(output.token_ids):
        raise RuntimeError(
            f"vLLM gave logprobs for {len(token_logprobs)} of {len(output.token_ids)} tokens: nothing can be distilled"
            " from that"
        )
    return Completion(
        prompt_token_ids=list(prompt_token_ids),
        text=output.text,
        token_ids=list(output.token_ids),
        finish_reason=output.finish_reason,
        token_logprobs=token_logprobs,
        signal=SparseSignal.of(top_ids, top_logprobs),
    )
