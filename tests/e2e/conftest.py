"""A recipe small enough for a test, and a Ray cluster to submit it to."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "movie_reviews" / "recipe.yaml"


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def small_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's recipe on 160 reviews with a student of two layers that trains for a few steps."""
    recipe = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    recipe["data"]["limit"] = 160
    recipe["capture"] = {"top_k": 8, "part_size": 64}
    recipe["student"] |= {
        "init": {"kind": "teacher_layers", "layers": 2},
        "epochs": 1,
        "batch_size": 16,
        "micro_batch_size": 8,
        "checkpoint_every": 2,
    }
    # So lenient that even a student of a few steps answers some requests alone, and the cascade has both routes.
    recipe["evaluation"] |= {"alpha": 0.8, "delta": 0.2}
    recipe["serving"] = {"port": free_port()}
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Cluster:
    """A Ray head, and what a client needs to reach it."""

    address: str
    environment: dict[str, str]


@pytest.fixture(scope="module")
def cluster(s3: object) -> Iterator[Cluster]:
    """A Ray head that knows the S3 server, and that nothing joins without its token."""
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        # As in the image: `python` is the one that has the libraries.
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    port, folder = free_port(), tempfile.mkdtemp(prefix="ray", dir="/tmp")
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--num-cpus=8"]
    command += ["--node-ip-address=127.0.0.1", f"--port={free_port()}", f"--dashboard-port={port}"]
    command += [f"--temp-dir={folder}", "--disable-usage-stats", f"--ray-client-server-port={free_port()}"]
    log = Path(folder) / "head.log"
    with log.open("wb") as output:
        # A session of its own, so that the whole family can be ended without naming any other Ray on the machine.
        head = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, cwd=folder, env=environment
        )
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for(address, head, log)
        yield Cluster(address, environment)
    finally:
        head.send_signal(signal.SIGTERM)
        try:
            head.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)
            head.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(address: str, head: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(120):
        if head.poll() is not None:
            pytest.fail(f"the Ray head ended with {head.returncode}:\n{log.read_text(errors='replace')[-2000:]}")
        try:
            with urllib.request.urlopen(f"{address}/api/version", timeout=5):
                return
        except urllib.error.HTTPError:
            return  # it answers, though it wants a token
        except OSError:
            time.sleep(1)
    pytest.fail(f"the Ray head's dashboard does not answer:\n{log.read_text(errors='replace')[-2000:]}")
