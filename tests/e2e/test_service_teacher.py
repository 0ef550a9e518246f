"""A teacher that is served alone, captured through its endpoint: the same signal as from an engine in the job."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
import yaml
from engine_process import TEACHER, EngineProcess

from ray_jobs.capture.endpoint_teacher import EndpointTeacher
from ray_jobs.capture.spending import ledger
from ray_jobs.capture.teacher import Question
from stillhouse import models
from stillhouse.recipe import Recipe
from stillhouse.recipe_file import parse_recipe
from stillhouse.run import Run
from stillhouse.signal.schema import Completion
from stillhouse.task import render

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("engines")]

ENGINE = {"device": "cpu", "dtype": "float32", "max_model_len": 256, "kv_cache_gb": 0.25, "max_num_seqs": 8}
TEXTS = ["a gripping, funny, wonderful film", "i hated every minute", "tedious and overlong", "größte Oper des Jahres"]
CHOICES = {
    "kind": "choices",
    "prompt": "Review: {text}\nSentiment:",
    "choices": [" positive", " negative"],
    "max_tokens": 4,
}
WORDS = {
    "kind": "text",
    "messages": [{"role": "user", "content": "Say in a few words what this means: {text}"}],
    "max_tokens": 12,
    "sampling": {"temperature": 0},
}
START_TIMEOUT_S = 400


def recipe(task: dict[str, Any], teacher: dict[str, Any]) -> Recipe:
    content = {
        "name": "reviews",
        "task": task,
        "data": {"path": "/nowhere/reviews.csv"},
        "teacher": teacher,
        "capture": {"top_k": 20},
        "student": {"init": {"kind": "pretrained", "model": TEACHER}},
    }
    return parse_recipe(yaml.safe_dump(content), source="test")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`stillhouse teacher`, as a user starts it; Ctrl-C ends it and leaves nothing behind."""
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe(CHOICES, {"model": TEACHER, "engine": ENGINE}).model_dump(mode="json")))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Ray's sockets need a short path.
    folder = tempfile.mkdtemp(prefix="sh-", dir="/tmp")
    output = Path(folder) / "output"
    process = subprocess.Popen(
        [Path(sys.executable).with_name("stillhouse"), "teacher", path, "--port", str(port)],
        env={**os.environ, "STILLHOUSE_RAY_TEMP_DIR": folder},
        stdout=output.open("w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while "ready after" not in output.read_text():
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        started = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=120) == 130, output.read_text()
        _, left = psutil.wait_procs(started, timeout=10)
        for each in left:
            each.kill()
        said = output.read_text()
        shutil.rmtree(folder, ignore_errors=True)
    assert left == []
    assert "Traceback" not in said


@pytest.fixture
def captured(url: str, tmp_path: Path) -> Callable[..., list[Completion]]:
    def capture(task: dict[str, Any]) -> list[Completion]:
        at = {"model": "reviews-teacher", "url": url, "api": "vllm", "api_key_env": None, "tokenizer": TEACHER}
        made = recipe(task, at)
        run = Run.open(str(tmp_path / "run"))
        run.begin(made)
        teacher = EndpointTeacher(made, made.teacher, run)
        asked = [Question(f"r{i}", render(made.task, {"text": text}), seed=i) for i, text in enumerate(TEXTS)]
        answers = teacher.answer(0, asked)
        told = ledger(run)
        assert told["requests"] == len(TEXTS)
        found = []
        for answer in answers:
            assert isinstance(answer, list), answer
            found += answer
        assert told["prompt_tokens"] == sum(len(each.prompt_token_ids) for each in found)
        assert told["completion_tokens"] == sum(len(each.token_ids) for each in found)
        return found

    return capture


def test_offers_the_teacher_to_any_client(url: str) -> None:
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["reviews-teacher"]


def test_choices_are_those_of_the_engine_in_the_job(
    captured: Callable[..., list[Completion]], engines: EngineProcess
) -> None:
    served = captured(CHOICES)
    made = recipe(CHOICES, {"model": TEACHER, "engine": ENGINE})
    with engines.start(made.task, made.capture, scores=False, engine=made.teacher.engine) as engine:
        alone = engine.complete([each.prompt_token_ids for each in served])
    for there, (here,) in zip(served, alone, strict=True):
        assert (there.text, there.token_ids, there.finish_reason) == (here.text, here.token_ids, here.finish_reason)
        assert there.token_logprobs == pytest.approx(here.token_logprobs, abs=1e-4)
        assert there.signal is not None
        assert here.signal is not None
        assert there.signal.ids.tolist() == here.signal.ids.tolist()
        assert there.signal.offsets.tolist() == here.signal.offsets.tolist()
        assert there.signal.logprobs.tolist() == pytest.approx(here.signal.logprobs.tolist(), abs=1e-4)
        assert there.signal.mass.tolist() == pytest.approx([1.0] * len(there.token_ids), abs=1e-4)


def test_a_chats_signal_is_that_of_transformers(captured: Callable[..., list[Completion]]) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(models.resolve(TEACHER), dtype=torch.float32)
    for made in captured(WORDS):
        ids = [*made.prompt_token_ids, *made.token_ids]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0]
        predicting = torch.log_softmax(logits[len(made.prompt_token_ids) - 1 : -1], dim=-1)
        assert made.token_ids == predicting.argmax(dim=-1).tolist(), "greedy"
        assert made.signal is not None
        assert made.signal.counts.tolist() == [20] * len(made.token_ids)
        for t, row in enumerate(predicting):
            top_ids, top_logprobs = made.signal.at(t)
            best = row.topk(20)
            assert top_logprobs.tolist() == pytest.approx(best.values.tolist(), abs=1e-4)
            assert sorted(top_ids.tolist()) == sorted(best.indices.tolist())
        spelled = [made.token_ids[t] for t in range(len(made.token_ids))]
        assert made.token_logprobs == pytest.approx(predicting[range(len(spelled)), spelled].tolist(), abs=1e-4)
