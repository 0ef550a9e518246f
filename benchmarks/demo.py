"""The demo's wall time and peak memory, step by step: `python -m benchmarks.demo`.

Runs `make demo`'s program once in a new folder. There is nothing to hold it against but the time and memory
that a laptop has, so `other` and `ratio` are null. Memory is the proportional set size (PSS) of the program and all
its descendants: shared pages count once.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

DEMO = Path(__file__).resolve().parent.parent / "examples" / "movie_reviews" / "demo.py"
SAMPLE_EVERY_S = 1.0
MAX_MINUTES = 20.0
MAX_GIB = 14.0
_STEP = re.compile(r"^\[(\w+)\]")


def main() -> int:
    """Run the demo, print a table and one JSON line; the demo's exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description="Measure the demo, step by step.")
    parser.add_argument("--run", help="where the demo's run goes; it must not exist (default: a temporary folder)")
    words = parser.parse_args()
    if words.run and Path(words.run).exists():
        parser.error(f"{words.run} exists, and a demo that skips its steps has nothing to measure")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(DEMO), "--run", words.run or str(Path(folder) / "run")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace")
        seconds, peaks = _watch(process)
    if process.returncode:
        return process.returncode
    table = Table("step", "wall (s)", "peak memory (GiB)", box=None)
    for step, spent in seconds.items():
        table.add_row(step, f"{spent:.0f}", f"{peaks[step] / 2**30:.1f}")
    Console().print(table)
    figures = []
    for step, spent in seconds.items():
        figures.append(_figure(f"{step} wall", spent, "s"))
        figures.append(_figure(f"{step} peak memory", peaks[step] / 2**30, "GiB"))
    figures.append(_figure("demo wall", sum(seconds.values()) / 60, "min", MAX_MINUTES))
    figures.append(_figure("demo peak memory", max(peaks.values()) / 2**30, "GiB", MAX_GIB))
    print(json.dumps({"benchmark": "demo", "figures": figures}))
    return 0


def _figure(name: str, value: float, unit: str, target: float | None = None) -> dict[str, object]:
    met = None if target is None else value <= target
    ours = round(value, 2)
    shown = None if target is None else f"<= {target:g}"
    return {
        "name": f"{name} ({unit})",
        "ours": ours,
        "other": None,
        "ratio": None,
        "spread": None,
        "target": shown,
        "met": met,
    }


def _watch(process: subprocess.Popen[str]) -> tuple[dict[str, float], dict[str, int]]:
    """Pass the demo's output through, and attribute time and memory to the step that its lines name.

    Returns:
        Seconds and peak bytes a step, in order.
    """
    seconds: dict[str, float] = defaultdict(float)
    peaks: dict[str, int] = defaultdict(int)
    step = "start"

    def sample() -> None:
        while process.poll() is None:
            peaks[step] = max(peaks[step], _memory(process.pid))
            time.sleep(SAMPLE_EVERY_S)

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    since = time.monotonic()
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", flush=True)
        now = time.monotonic()
        seconds[step] += now - since
        since = now
        if found := _STEP.match(line):
            step = "serve" if found[1] == "pipeline" else found[1]
    process.wait()
    seconds[step] += time.monotonic() - since
    sampler.join()
    return dict(seconds), dict(peaks)


def _memory(pid: int) -> int:
    """PSS of a process and its descendants, in bytes."""
    total = 0
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for member in family:
        try:
            total += member.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


if __name__ == "__main__":
    sys.exit(main())
