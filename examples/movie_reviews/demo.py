"""The demo: distil a film-review classifier, serve it, ask it twenty test reviews, and say what it came to.

`make demo`, or `python examples/movie_reviews/demo.py [--recipe PATH] [--run URI] [--ask N]`.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet
from openai import OpenAI
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stillhouse.recipe import Recipe
from stillhouse.recipe_file import load_recipe
from stillhouse.run import Run

HERE = Path(__file__).resolve().parent
STARTS_WITHIN_S = 600
console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def main() -> int:
    """Run the whole demo; the exit status of the first part that fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--recipe", type=Path, default=HERE / "recipe.yaml")
    parser.add_argument("--run", help="default: runs/NAME")
    parser.add_argument("--ask", type=int, default=20, help="test reviews to ask the endpoint")
    words = parser.parse_args()
    recipe = load_recipe(words.recipe)
    uri = words.run or f"runs/{recipe.name}"

    stillhouse = [sys.executable, "-m", "stillhouse.cli"]
    distilled = _waited([*stillhouse, "run", str(words.recipe), "--run", uri])
    if distilled:
        return distilled
    run = Run.open(uri)
    url = f"http://{recipe.serving.host}:{recipe.serving.port}"
    with _served([*stillhouse, "serve", uri], url) as failed:
        if failed is not None:
            return failed
        _ask(OpenAI(base_url=f"{url}/v1", api_key="none"), recipe, run, words.ask)
    _summarise(recipe, run, uri)
    return 0


def _waited(command: list[str]) -> int:
    """Run a command to its end; Ctrl-C reaches it by itself, and its own end is waited for."""
    process = subprocess.Popen(command)
    try:
        return process.wait()
    except KeyboardInterrupt:
        return process.wait()


@contextmanager
def _served(command: list[str], url: str) -> Iterator[int | None]:
    """The endpoint for the length of a `with`; yields its exit status if it ended before it was ready."""
    process = subprocess.Popen(command)
    try:
        yield _ready(process, url)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait()


def _ready(process: subprocess.Popen[bytes], url: str) -> int | None:
    began = time.monotonic()
    while time.monotonic() - began < STARTS_WITHIN_S:
        if (status := process.poll()) is not None:
            return status or 1
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5):
                return None
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    print(f"error: the endpoint was not ready within {STARTS_WITHIN_S} s", file=sys.stderr)
    return 1


def _ask(client: OpenAI, recipe: Recipe, run: Run, count: int) -> None:
    """Ask `count` of the test reviews, and print text, answer, route and confidence."""
    rows = _test_rows(run)
    rows = random.Random(recipe.seed).sample(rows, min(count, len(rows)))
    table = Table("review", "gold", "answer", "by", "confidence", box=None, pad_edge=False)
    began = time.monotonic()
    for row in rows:
        text = json.loads(row["fields"])["text"]
        shown = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        messages: Any = [{"role": "user", "content": text}]
        answered = client.chat.completions.with_raw_response.create(model=recipe.name, messages=messages)
        answer = (answered.parse().choices[0].message.content or "").strip()
        confidence = answered.headers.get("x-stillhouse-confidence", "")
        colour = "green" if answer == row["gold"] else "red"
        table.add_row(
            escape(shown if len(shown) <= 70 else f"{shown[:69]}…"),
            row["gold"] or "",
            f"[{colour}]{answer}[/]",
            answered.headers["x-stillhouse-route"],
            f"{float(confidence):.2f}" if confidence else "",
        )
    seconds = time.monotonic() - began
    console.print()
    console.print(table)
    console.print(f"{len(rows)} reviews in {seconds:.1f} s through the OpenAI client, one after another")


def _test_rows(run: Run) -> list[dict[str, Any]]:
    table = pyarrow.parquet.read_table(io.BytesIO(run.storage.read("dataset/test.parquet")), columns=["fields", "gold"])
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _summarise(recipe: Recipe, run: Run, uri: str) -> None:
    report = json.loads(run.storage.read("evaluation/report.json"))
    quality, costs = report["quality"], report["spending"]["per_million"]
    table = Table("", "accuracy (95%)", f"a million requests ({recipe.prices.currency})", box=None, pad_edge=False)
    for name in ("teacher", "student", "cascade"):
        table.add_row(name, _interval(quality[name]), f"{costs[name]:.2f}")
    console.print()
    console.print(table)
    console.print(f"student and teacher agree: {_interval(quality['agreement'])}")
    console.print(f"fallback rate: {_interval(report['release']['fallback_rate'])} of {report['test_n']} test reviews")
    console.print(report["release"]["promise"])
    console.print()
    console.print(
        f"report       {os.path.relpath(run.uri) if '://' not in run.uri else run.uri}/evaluation/report.html"
    )
    console.print(f"serve again  .venv/bin/stillhouse serve {uri}")


def _interval(estimate: dict[str, float] | None) -> str:
    if estimate is None:
        return "no gold labels"
    return f"{estimate['value']:.3f} ({estimate['low']:.3f}–{estimate['high']:.3f})"


if __name__ == "__main__":
    sys.exit(main())
