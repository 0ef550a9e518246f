"""The endpoint on real engines: two vLLM engines behind Ray Serve, asked by the `openai` client."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
from finished import finished_run
from recipes import TEACHER

from stillhouse import models

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("engines")]

TEXTS = [
    "a gripping, funny, wonderful film",
    "i hated every minute",
    "tedious and overlong",
    "an unforgettable story of love",
    "it works",
    "the best film of the year",
]
START_TIMEOUT_S = 400


class Served:
    """`python -m services.app`, as a user starts it."""

    def __init__(self, run: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60)
        # Ray's sockets need a short path.
        self._folder = tempfile.mkdtemp(prefix="sh-", dir="/tmp")
        self._output = Path(self._folder) / "output"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "services.app", "--run", run, "--port", str(self.port)],
            env={**os.environ, "STILLHOUSE_RAY_TEMP_DIR": self._folder},
            stdout=self._output.open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def output(self) -> str:
        return self._output.read_text()

    def wait(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while "ready after" not in self.output():
            assert self._process.poll() is None, self.output()
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.5)

    def stop(self) -> tuple[int, list[psutil.Process]]:
        """Ctrl-C: SIGINT to the whole process group. The exit status, and the processes that are left."""
        started = psutil.Process(self._process.pid).children(recursive=True)
        os.killpg(self._process.pid, signal.SIGINT)
        status = self._process.wait(timeout=120)
        _, left = psutil.wait_procs(started, timeout=10)
        return status, left

    def close(self) -> None:
        if self._process.poll() is None:
            _, left = self.stop()
            for process in left:
                process.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The teacher's first two layers: a student that is hardly ever sure."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("student")
    model = AutoModelForCausalLM.from_pretrained(models.resolve(TEACHER), dtype=torch.float32)
    model.model.layers = model.model.layers[:2]
    model.config.num_hidden_layers = 2
    model.save_pretrained(folder)
    models.load_tokenizer(TEACHER).save_pretrained(folder)
    return folder


def choice_logprobs(model_folder: str, text: str) -> tuple[list[str], Any]:
    """The two choices' tokens and their logprobs [2] among each other, by transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = models.load_tokenizer(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    choices = [" positive", " negative"]
    spelled = [tokenizer(choice)["input_ids"] for choice in choices]
    assert [len(ids) for ids in spelled] == [1, 1]
    with torch.no_grad():
        logits = model(**tokenizer(f"Review: {text}\nSentiment:", return_tensors="pt")).logits[0, -1]
    return choices, torch.log_softmax(logits[[ids[0] for ids in spelled]], dim=-1)


@pytest.fixture(scope="module")
def threshold(student: Path) -> float:
    """Half of the texts lie on either side of it."""
    sure = sorted(choice_logprobs(str(student), text)[1].exp().max().item() for text in TEXTS)
    middle = len(sure) // 2
    return (sure[middle - 1] + sure[middle]) / 2


@pytest.fixture(scope="module")
def served(student: Path, threshold: float, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    run = finished_run(tmp_path_factory.mktemp("runs") / "reviews", student, threshold=threshold)
    served = Served(run.uri)
    try:
        served.wait()
        yield served
    finally:
        served.close()


def ask(served: Served, text: str = TEXTS[0], *, model: str = "reviews", **options: Any) -> tuple[httpx.Headers, Any]:
    """Headers and answer of one chat request through the `openai` client."""
    raw = served.client.chat.completions.with_raw_response.create(
        model=model,
        messages=[{"role": "user", "content": text}],
        **options,
    )
    return raw.headers, raw.parse()


def test_is_ready(served: Served) -> None:
    response = httpx.get(f"{served.url}/readyz")
    assert (response.status_code, response.json()) == (200, {"student": True, "teacher": True})
    assert [model.id for model in served.client.models.list()] == ["reviews", "reviews-student", "reviews-teacher"]


def test_the_threshold_decides_who_answers(served: Served, threshold: float) -> None:
    routes = set()
    for text in TEXTS:
        alone, own = ask(served, text, model="reviews-student")
        _, its = ask(served, text, model="reviews-teacher")
        headers, reply = ask(served, text)
        confidence = float(alone["x-stillhouse-confidence"])
        assert float(headers["x-stillhouse-confidence"]) == pytest.approx(confidence, abs=1e-4)
        route = headers["x-stillhouse-route"]
        routes.add(route)
        assert route == ("student" if confidence >= threshold else "teacher")
        expected = own if route == "student" else its
        spent = own.usage.total_tokens + (its.usage.total_tokens if route == "teacher" else 0)
        assert reply.model == f"reviews-{route}"
        assert reply.choices[0].message.content == expected.choices[0].message.content
        assert reply.choices[0].logprobs is None
        assert reply.usage.total_tokens == spent
        assert headers["x-request-id"]
    assert routes == {"student", "teacher"}, "the texts lie on both sides of the threshold"


def test_the_teachers_logprobs_are_those_of_transformers_among_the_choices(served: Served) -> None:
    choices, expected = choice_logprobs(models.resolve(TEACHER), TEXTS[0])

    headers, reply = ask(served, model="reviews-teacher", logprobs=True, top_logprobs=2)
    assert headers["x-stillhouse-route"] == "teacher"
    first = reply.choices[0].logprobs.content[0]
    best = expected.topk(2)
    assert [entry.token for entry in first.top_logprobs] == [choices[i] for i in best.indices.tolist()]
    assert [entry.logprob for entry in first.top_logprobs] == pytest.approx(best.values.tolist(), abs=1e-3)


def test_a_stream_says_what_the_whole_answer_says(served: Served) -> None:
    for model in ("reviews", "reviews-student", "reviews-teacher"):
        whole_headers, whole = ask(served, model=model)
        headers, stream = ask(served, model=model, stream=True, stream_options={"include_usage": True})
        assert headers["x-stillhouse-route"] == whole_headers["x-stillhouse-route"]
        chunks = list(stream)
        said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert said == whole.choices[0].message.content
        assert {chunk.model for chunk in chunks} == {whole.model}
        assert chunks[-1].usage.total_tokens == whole.usage.total_tokens


def test_plain_completions(served: Served) -> None:
    raw = served.client.completions.with_raw_response.create(
        model="reviews", prompt=f"Review: {TEXTS[0]}\nSentiment:", logprobs=1
    )
    headers, _ = ask(served)
    assert raw.headers["x-stillhouse-route"] == headers["x-stillhouse-route"]
    choice = raw.parse().choices[0]
    assert choice.text in (" positive", " negative")
    assert choice.text.startswith(choice.logprobs.tokens[0])


def test_the_clients_mistakes(served: Served) -> None:
    with pytest.raises(openai.NotFoundError, match="reviews-teacher"):
        ask(served, model="gpt-4")
    with pytest.raises(openai.BadRequestError) as unsupported:
        ask(served, frequency_penalty=1.0)
    assert unsupported.value.param == "frequency_penalty"
    with pytest.raises(openai.BadRequestError) as too_long:
        ask(served, "very " * 400 + "good")
    assert (too_long.value.param, too_long.value.code) == ("messages", "context_length_exceeded")


def test_a_temperature_does_not_make_the_student_sure(served: Served) -> None:
    # vLLM's logprobs for choices are those after the temperature.
    for text in TEXTS:
        headers, _ = ask(served, text, temperature=0.01)
        assert headers["x-stillhouse-route"] == "teacher"


def test_metrics(served: Served) -> None:
    ask(served, model="reviews-teacher")
    text = httpx.get(f"{served.url}/metrics").text
    assert 'stillhouse_requests_total{route="teacher",status="200"}' in text


def test_ctrl_c_leaves_nothing_behind(served: Served) -> None:
    status, left = served.stop()
    assert status == 130
    assert left == []
    assert "Traceback" not in served.output()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", served.port))
