"""What tests of several rooms share: an S3 server, a cache of their own, small recipes and tokenizers."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from engine_process import EngineProcess, engine_process
from hypothesis import settings

from stillhouse.recipe import Recipe
from stillhouse.recipe_file import parse_recipe

# No test asks the model hub; read when its client is first imported.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Where a last message to a cluster that has ended is still under way, Ray ends the process that was its driver, without
# a word, after this many seconds: here that is the process of all other tests. Read when Ray is first imported; what is
# started from here, raylets and drivers, ends as it would for a user.
with pytest.MonkeyPatch.context() as _patch:
    _patch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "86400")
    import ray  # noqa: F401

# How long an example takes says how busy the machine is.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

RECIPE = """
name: tiny
task:
  kind: choices
  prompt: "Review: {text}\\nSentiment:"
  choices: [" positive", " negative"]
  max_tokens: 4
data: {path: /nowhere/data.jsonl, label: label}
teacher: {model: /nowhere/teacher}
"""


# Before xdist looks at the groups.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Share the tests out between two processes by file, so that what a file's tests share is made once.

    Those with several vLLM engines are one group, `engines`: side by side they would want twice the memory. The slow
    ones begin first, so that the short ones fill the end.
    """
    groups = {}
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.location[0]))
        (groups[item],) = item.get_closest_marker("xdist_group").args
    slow = {group for item, group in groups.items() if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (groups[item] != "engines", groups[item] not in slow))


@pytest.fixture(scope="session")
def s3() -> Iterator[Callable[[], str]]:
    """Gives a new empty `s3://` address at each call, on an S3 server that subprocesses reach too."""
    import boto3
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        environment.setenv("AWS_ACCESS_KEY_ID", "testing")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        environment.setenv("NO_PROXY", "127.0.0.1,localhost")
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            environment.setenv(name, os.devnull)
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
            environment.delenv(name, raising=False)
        boto3.client("s3").create_bucket(Bucket="stillhouse")
        numbers = itertools.count()
        yield lambda: f"s3://stillhouse/run-{next(numbers)}"
    server.stop()


@pytest.fixture(scope="session")
def engines() -> Iterator[EngineProcess]:
    """A process for the real engines of all tests."""
    with engine_process() as process:
        yield process


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for this test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "stillhouse"


@pytest.fixture(scope="session")
def make_recipe() -> Callable[..., Recipe]:
    """A small recipe, with the values at dotted paths replaced: `make_recipe({"data.path": "x.csv"})`."""

    def make(changes: dict[str, Any] | None = None) -> Recipe:
        content = yaml.safe_load(RECIPE)
        for path, value in (changes or {}).items():
            *sections, key = path.split(".")
            section = content
            for name in sections:
                section = section.setdefault(name, {})
            section[key] = value
        return parse_recipe(yaml.safe_dump(content), source="test")

    return make


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., Any]:
    """A tokenizer of whole words, numbered in the order given after `<eos>` and `<unk>`."""

    def make(words: str, *, eos: str = "<eos>", template: str | None = None) -> Any:
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        vocabulary = {word: i for i, word in enumerate(["<eos>", "<unk>", *words.split()])}
        backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=eos, unk_token="<unk>")
        tokenizer.chat_template = template
        return tokenizer

    return make
