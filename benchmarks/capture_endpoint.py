"""Capture through an endpoint against plain vLLM: `python -m benchmarks.capture_endpoint`.

The recipe's teacher is served alone (`python -m services.teacher`) and asked by the endpoint teacher with 20 logprobs a
token, replies checked and made into signal; the other side is `LLM.generate` of the same prompts in this process,
without logprobs. Both count the tokens that were generated in a second of wall time. There is no target: it is what the
way through HTTP costs.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from benchmarks.capture import ENGINE, TEACHER, plain, rates, review_records
from benchmarks.figures import paired, show
from ray_jobs.capture.endpoint_teacher import EndpointTeacher
from ray_jobs.capture.teacher import Question
from ray_jobs.engine import BatchEngine
from stillhouse.data import Record
from stillhouse.recipe import Capture, Recipe
from stillhouse.run import Run
from stillhouse.task import render, token_ids

K = 20
START_TIMEOUT_S = 300


def main() -> int:
    """Measure, print the figure and one JSON line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capture_endpoint", description="Capture through HTTP.")
    parser.add_argument("--prompts", type=int, default=64, help="reviews to answer in each repetition")
    parser.add_argument("--tokens", type=int, default=48, help="longest completion")
    parser.add_argument("--repetitions", type=int, default=5, help="pairs of runs")
    words = parser.parse_args()
    records = review_records(words.prompts)
    with tempfile.TemporaryDirectory(prefix="sh-", dir="/tmp") as folder, _served(_recipe(words), folder) as url:
        teacher, recipe = _asking(_recipe(words, url), folder)
        engine = BatchEngine(TEACHER, ENGINE, recipe.task, Capture(mode="text"))
        prompts = [token_ids(render(recipe.task, record.fields), engine.tokenizer) for record in records]
        ours, other = rates(
            lambda: _captured(teacher, recipe, records), lambda: plain(engine, prompts, recipe.task), words.repetitions
        )
    found = paired(f"capture over the API with logprobs={K} over plain generate (tokens/s)", ours, other)
    show([found])
    print(json.dumps({"benchmark": "capture_endpoint", "figures": [found]}))
    return 0


def _recipe(words: argparse.Namespace, url: str | None = None) -> Recipe:
    at = {"url": url, "api": "vllm", "api_key_env": None, "tokenizer": TEACHER}
    teacher = {"model": "benchmark-teacher", **at} if url else {"model": TEACHER, "engine": ENGINE}
    return Recipe.model_validate(
        {
            "name": "benchmark",
            "task": {
                "kind": "text",
                "prompt": "Review: {text}\nA reply to this review:",
                "max_tokens": words.tokens,
            },
            "data": {"path": "/nowhere.csv"},
            "teacher": teacher,
            "capture": {"top_k": K},
            "student": {"init": {"kind": "pretrained", "model": TEACHER}},
        }
    )


def _asking(recipe: Recipe, folder: str) -> tuple[EndpointTeacher, Recipe]:
    run = Run.open(f"{folder}/run")
    run.begin(recipe)
    return EndpointTeacher(recipe, recipe.teacher, run), recipe


def _captured(teacher: EndpointTeacher, recipe: Recipe, records: Sequence[Record]) -> int:
    questions = [Question(r.id, render(recipe.task, r.fields), seed=r.index) for r in records]
    answers: list[Any] = teacher.answer(0, questions)
    return sum(len(completion.token_ids) for answer in answers for completion in answer)


@contextmanager
def _served(recipe: Recipe, folder: str) -> Iterator[str]:
    """The teacher alone behind its endpoint, as a user starts it; gives its address."""
    path = Path(folder) / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")), encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    output = Path(folder) / "output"
    with output.open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.teacher", "--recipe", str(path), "--port", str(port)],
            env={**os.environ, "STILLHOUSE_RAY_TEMP_DIR": f"{folder}/ray"},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        until = time.monotonic() + START_TIMEOUT_S
        while "ready after" not in output.read_text():
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the teacher does not start:\n{output.read_text()}")
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait()


if __name__ == "__main__":
    sys.exit(main())
