"""Two nodes train together, and one after another is killed: the loss curve is that of a training nothing disturbed.

Each node is a raylet of its own; the driver is on the head, which survives.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from faulty_s3 import Fault, FaultyS3
from ray.cluster_utils import Cluster
from test_train import make_run, teacher

from ray_jobs.cluster import connected
from ray_jobs.train.job import train
from stillhouse.errors import UserError
from stillhouse.recipe import Recipe
from stillhouse.run import Run

__all__ = ["make_run", "teacher"]

pytestmark = pytest.mark.slow

STEPS = 60
STUDENT: dict[str, Any] = {"epochs": 10, "checkpoint_every": 5}
DEADLINE_S = 300.0
# Seconds, not half a minute, until the head knows that a node is gone.
DETECTION = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 500, "health_check_failure_threshold": 3}

MakeRun = Callable[..., tuple[Recipe, Run]]
Curve = list[dict[str, float]]


class Nodes:
    """A head and one more node, with room for one worker each."""

    def __init__(self, folder: Path) -> None:
        self.head = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 1,
                "include_dashboard": False,
                "temp_dir": str(folder),
                "_system_config": DETECTION,
            },
        )
        self._other: Any = None

    def both(self) -> None:
        """See that the other node is there."""
        if self._other is None:
            self._other = self.head.add_node(num_cpus=1)

    def worker(self) -> psutil.Process:
        """The training's worker on the other node."""
        (found,) = [each for each in self._children() if "RayTrainWorker" in " ".join(each.cmdline())]
        return found

    def kill(self) -> None:
        """`kill -9` of the other node's raylet, while it holds one of the training's workers."""
        assert self.worker().is_running()
        children = self._children()
        # These do no work, and would wait a minute for their raylet.
        agents = [each for each in children if "Agent" in each.name()]
        self._raylet().kill()
        self._raylet().wait()
        for agent in agents:
            with suppress(psutil.NoSuchProcess):
                agent.kill()
        _, left = psutil.wait_procs(children, timeout=DEADLINE_S)
        assert not left, f"they outlive their raylet: {left}"
        self.head.remove_node(self._other, allow_graceful=False)
        self._other = None

    def _children(self) -> list[psutil.Process]:
        return psutil.Process(self._raylet().pid).children(recursive=True)

    def _raylet(self) -> subprocess.Popen[bytes]:
        process: subprocess.Popen[bytes] = self._other.all_processes["raylet"][0].process
        return process


@pytest.fixture(scope="module")
def environment() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def faulty(s3: Callable[[], str], environment: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    """In front of the S3 server for all processes; it passes on everything until a test says otherwise."""
    server = FaultyS3(os.environ["AWS_ENDPOINT_URL"])
    environment.setenv("AWS_ENDPOINT_URL", server.address)
    yield server
    server.close()


@pytest.fixture(scope="module")
def started(faulty: FaultyS3, environment: pytest.MonkeyPatch) -> Iterator[Nodes]:
    """Started after the S3 server, so that its workers know where that is."""
    # Ray's sockets need a short path.
    folder = Path(tempfile.mkdtemp(prefix="sh-", dir="/tmp"))
    environment.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    nodes = Nodes(folder)
    environment.setenv("RAY_ADDRESS", nodes.head.address)
    try:
        with connected():
            assert ray.get_runtime_context().get_node_id() == nodes.head.head_node.node_id, "the driver is on the head"
            yield nodes
    finally:
        nodes.head.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def nodes(started: Nodes) -> Nodes:
    started.both()
    return started


@pytest.fixture(scope="module")
def undisturbed(started: Nodes, make_run: MakeRun) -> Curve:
    started.both()
    recipe, run = make_run("undisturbed", **STUDENT, workers=2)
    train(recipe, run)
    found = curve(run)
    assert [row["step"] for row in found if "learning_rate" in row] == list(range(1, STEPS + 1))
    return found


def curve(run: Run) -> Curve:
    return [json.loads(line) for line in run.storage.read("student/training.jsonl").splitlines()]


def wait_for_a_checkpoint(run: Run) -> None:
    until = time.monotonic() + DEADLINE_S
    while not any("checkpoint_manager_snapshot" in key for key in run.storage.list("training")):
        assert time.monotonic() < until, "no checkpoint"
        time.sleep(0.05)


def train_through(recipe: Recipe, run: Run, fault: Callable[[], None]) -> None:
    """Train, with the fault after the first checkpoint."""
    raised: list[BaseException] = []

    def training() -> None:
        try:
            train(recipe, run)
        except BaseException as error:  # raised again in the test's thread
            raised.append(error)

    # The fault is in the test's own thread, so that one that fails is not waited for.
    thread = threading.Thread(target=training, daemon=True)
    thread.start()
    wait_for_a_checkpoint(run)
    fault()
    thread.join(DEADLINE_S)
    assert not thread.is_alive(), "the training does not end"
    if raised:
        raise raised[0]


def resumed_at(said: str) -> int:
    """The step at which a training said that it goes on, the last time."""
    step = int(re.findall(rf"goes on at step (\d+) of {STEPS}", said)[-1])
    assert 0 < step < STEPS
    return step


def test_a_worker_is_killed(
    nodes: Nodes, make_run: MakeRun, undisturbed: Curve, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, run = make_run("worker", **STUDENT, workers=2)
    train_through(recipe, run, lambda: nodes.worker().kill())
    said = capsys.readouterr().out
    assert said.count("a worker failed") == 1
    assert resumed_at(said)
    assert curve(run) == undisturbed


def test_a_node_is_killed_and_another_takes_its_place(
    nodes: Nodes, make_run: MakeRun, undisturbed: Curve, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, run = make_run("replaced", **STUDENT, workers=2)

    def replace() -> None:
        nodes.kill()
        nodes.both()

    train_through(recipe, run, replace)
    said = capsys.readouterr().out
    assert "a worker failed" in said
    assert resumed_at(said)
    assert curve(run) == undisturbed


def test_a_node_is_killed_and_the_training_goes_on_without_it(
    nodes: Nodes, make_run: MakeRun, undisturbed: Curve, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, run = make_run("elastic", **STUDENT, workers={"min": 1, "max": 2})
    train_through(recipe, run, nodes.kill)
    said = capsys.readouterr().out
    assert f"{STEPS} steps, 2 workers" in said
    assert f"{STEPS} steps, 1 worker\n" in said
    step, found = resumed_at(said), curve(run)
    same = [row for row in undisturbed if row["step"] <= step]
    assert found[: len(same)] == same
    assert len(found) == len(undisturbed)
    for row, expected in zip(found, undisturbed, strict=True):
        assert row == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_the_driver_is_killed(
    nodes: Nodes, make_run: MakeRun, undisturbed: Curve, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, run = make_run("driver", **STUDENT, workers=2)
    words = [sys.executable, "-m", "ray_jobs.train", "--recipe", f"{run.uri}/recipe.yaml", "--run", run.uri]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as driver:
        wait_for_a_checkpoint(run)
        worker = nodes.worker()
        driver.kill()
    # Its workers end with it, and free the node for those that go on.
    _, left = psutil.wait_procs([worker], timeout=DEADLINE_S)
    assert not left
    assert run.manifest("student") is None
    train(recipe, run)
    assert resumed_at(capsys.readouterr().out)
    assert curve(run) == undisturbed


def test_a_storage_that_fails_in_the_middle_of_a_checkpoint(
    nodes: Nodes,
    make_run: MakeRun,
    undisturbed: Curve,
    faulty: FaultyS3,
    s3: Callable[[], str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One file of the second checkpoint is stored, the others are refused, and nothing ever reads it."""
    checkpoints: list[str] = []
    stored: list[str] = []
    refused: list[str] = []

    def refuse(method: str, path: str) -> Fault | None:
        found = re.search(r"/training/\w+/(checkpoint_\d[^/?]*)/(.+)", path)
        if method != "PUT" or found is None:
            return None
        if found[1] not in checkpoints:
            checkpoints.append(found[1])
        if checkpoints.index(found[1]) != 1:
            return None
        into = refused if stored else stored
        into.append(found[2])
        return "refuse" if into is refused else None

    recipe, run = make_run("storage", s3(), **STUDENT, workers=2)
    faulty.seen.clear()
    faulty.fault = refuse
    try:
        with pytest.raises(UserError, match="access is denied"):
            train(recipe, run)
    finally:
        faulty.fault = lambda _method, _path: None
    assert stored
    assert refused
    assert run.manifest("student") is None
    train(recipe, run)
    assert [path for method, path in faulty.seen if method == "GET" and f"/{checkpoints[1]}/" in path] == []
    assert resumed_at(capsys.readouterr().out)
    assert curve(run) == undisturbed
