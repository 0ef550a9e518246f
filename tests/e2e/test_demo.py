"""The demo as a newcomer runs it, on a smaller slice: distil, evaluate, serve, ask; then interrupted, and again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from stillhouse.run import STEPS, Run

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("engines")]

DEMO = Path(__file__).resolve().parents[2] / "examples" / "movie_reviews" / "demo.py"


def _demo(recipe: Path, run: Path) -> list[str]:
    return [sys.executable, str(DEMO), "--recipe", str(recipe), "--run", str(run), "--ask", "3"]


def _descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "run"


def test_ctrl_c_leaves_no_process_behind_and_nothing_finished_is_lost(small_recipe: Path, run_folder: Path) -> None:
    process = subprocess.Popen(
        _demo(small_recipe, run_folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    run = Run.open(str(run_folder))
    deadline = time.monotonic() + 300
    while not run.storage.exists("capture/parts/part-00000.parquet"):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    family = _descendants(process)
    part = run.storage.read("capture/parts/part-00000.parquet")

    # As a terminal does it: to every process of the group at once.
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)

    assert process.returncode != 0
    assert "Traceback" not in output
    _, left = psutil.wait_procs(family, timeout=30)
    assert _alive(left) == []
    assert run.manifest("evaluation") is None
    assert run.storage.read("capture/parts/part-00000.parquet") == part


def test_the_next_demo_goes_on_and_ends_with_the_table(small_recipe: Path, run_folder: Path) -> None:
    done = subprocess.run(_demo(small_recipe, run_folder), capture_output=True, text=True, timeout=800, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "goes on:" in done.stdout
    run = Run.open(str(run_folder))
    report = json.loads(run.storage.read("evaluation/report.json"))
    for line in ("3 reviews in", "fallback rate:", "a million requests", "report.html", "stillhouse serve"):
        assert line in done.stdout
    assert f"{report['quality']['teacher']['value']:.3f}" in done.stdout
    assert all(run.manifest(step) for step in STEPS)
    assert b"<html" in run.storage.read("evaluation/report.html")
