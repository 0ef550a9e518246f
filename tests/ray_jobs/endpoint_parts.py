"""What the tests of the endpoint teacher share: a byte-level tokenizer, recipes for an endpoint, and questions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ray_jobs.capture.teacher import Question
from stillhouse.endpoint import client
from stillhouse.recipe import Recipe
from stillhouse.task import render

CHAT = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}<|assistant|>"
KEY = "sk-a-secret/of+the=tests"
TEXTS = ["a good film", "a bad film", "größte Oper", "naïve, and dull", "a film", "良い映画"]


def byte_level_tokenizer(folder: Path, *, vocabulary: int = 300, template: str = CHAT) -> Any:
    """A small tokenizer as Llama 3's and Qwen's are made, saved as a model's folder."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([f"Review: {text}\nSentiment: positive negative" for text in TEXTS], trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")
    made.chat_template = template
    made.save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return AutoTokenizer.from_pretrained(folder)


def at(url: str, folder: Path, **changes: Any) -> dict[str, Any]:
    """The keys of a recipe whose teacher is at `url`, for `make_recipe`; `__` in a name stands for a dot."""
    keys = {
        "task.kind": "text",
        "task.prompt": "Review: {text}\nSentiment:",
        "task.choices": [],
        "task.max_tokens": 16,
        "task.sampling.temperature": 0,
        "teacher.model": "teacher",
        "teacher.url": url,
        "teacher.api_key_env": "TEACHER_KEY",
        "teacher.tokenizer": str(folder),
        "teacher.timeout_s": 30.0,
        "teacher.max_attempts": 3,
        "capture.top_k": 5,
        "student.init.kind": "pretrained",
        "student.init.model": str(folder),
    }
    keys |= {name.replace("__", "."): value for name, value in changes.items()}
    if keys.get("capture.mode") == "text":
        keys |= {"student.kd_weight": 0, "teacher.tokenizer": None}
    return keys


def questions(recipe: Recipe, texts: list[str] = TEXTS) -> list[Question]:
    """One for each text."""
    return [Question(f"r{i}", render(recipe.task, {"text": text}), seed=100 + i) for i, text in enumerate(texts)]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting between attempts."""
    monkeypatch.setattr(client, "_FIRST_BACKOFF_S", 0.001)


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    """The endpoint's key, in the environment."""
    monkeypatch.setenv("TEACHER_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    return KEY


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer on disk."""
    folder = tmp_path_factory.mktemp("tokenizer")
    byte_level_tokenizer(folder)
    return folder


MakeRecipe = Callable[..., Recipe]
