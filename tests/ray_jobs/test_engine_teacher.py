"""What is asked of the engine, what is scored, and what does neither fit nor belong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ray_jobs.capture import engine_teacher
from ray_jobs.capture.engine_teacher import EngineTeacher
from ray_jobs.capture.teacher import Answer, Failure, Question
from stillhouse.recipe import Recipe
from stillhouse.signal.alignment import tokenizer_hash
from stillhouse.signal.schema import Completion
from stillhouse.task import Prompt

MakeRecipe = Callable[..., Recipe]

WORDS = "Review : a b c d positive negative unclear Sentiment"


class ScriptedEngine:
    """Answers with the seed and the sample; scores what ends with the end of the sequence."""

    version, dtype = "1.2", "float32"

    def __init__(self, tokenizer: Any, *started: Any, scores: bool) -> None:
        self.tokenizer, self.scores, self.max_model_len = tokenizer, scores, 16
        self.calls: list[tuple[str, Any]] = []
        self.reason, self.text = "stop", ""

    def complete(self, prompts: Sequence[list[int]], *, n: int, seeds: Sequence[int]) -> list[list[Completion]]:
        self.calls.append(("complete", prompts))
        return [[self.completion(ids, [seed, i]) for i in range(n)] for ids, seed in zip(prompts, seeds, strict=True)]

    def score(
        self, prompts: Sequence[list[int]], completions: Sequence[list[int]], *, seeds: Sequence[int]
    ) -> list[Completion | None]:
        self.calls.append(("score", completions))
        known = [ids[-1] in (0, 5) for ids in completions]
        return [
            self.completion(prompt, ids) if good else None
            for prompt, ids, good in zip(prompts, completions, known, strict=True)
        ]

    def completion(self, prompt: list[int], ids: list[int]) -> Completion:
        return Completion(prompt, self.text, ids, self.reason, list(np.zeros(len(ids))), None)


@pytest.fixture
def teacher(
    make_recipe: MakeRecipe, make_tokenizer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[EngineTeacher, ScriptedEngine]]:
    tokenizer = make_tokenizer(WORDS)

    def make(changes: dict[str, Any] | None = None) -> tuple[EngineTeacher, ScriptedEngine]:
        recipe = make_recipe(changes)
        monkeypatch.setattr(
            engine_teacher, "BatchEngine", lambda *started, scores: ScriptedEngine(tokenizer, scores=scores)
        )
        made = EngineTeacher(recipe, recipe.teacher)
        engine: Any = made._engine
        return made, engine

    return make


def question(text: str, seed: int = 0, completion: str | list[int] | None = None) -> Question:
    return Question(id=text, prompt=Prompt(text=text), seed=seed, completion=completion)


def ids(answer: Answer) -> list[list[int]]:
    assert not isinstance(answer, Failure)
    return [completion.token_ids for completion in answer]


TEXT = {"task.kind": "text", "task.choices": [], "capture.n": 2}


def test_each_prompt_is_asked_n_times_with_its_own_seed(teacher: Any) -> None:
    made, engine = teacher(TEXT)
    answers = made.answer(0, [question("a b", 7), question("c", 9)])
    assert [ids(answer) for answer in answers] == [[[7, 0], [7, 1]], [[9, 0], [9, 1]]]
    assert engine.calls == [("complete", [[4, 5], [6]])]
    assert not engine.scores


def test_a_prompt_that_does_not_fit_is_a_failure_and_nothing_is_cut(teacher: Any) -> None:
    made, engine = teacher()
    short, fitting, long = "a", " ".join("a" * 12), " ".join("a" * 13)
    answers = made.answer(0, [question(short), question(long), question(fitting, 3)])
    assert answers[1] == Failure("the prompt has 13 tokens, and 12 fit beside max_tokens (4) into max_model_len (16)")
    assert [ids(answers[0]), ids(answers[2])] == [[[0, 0]], [[3, 0]]]
    assert [len(prompt) for prompt in engine.calls[0][1]] == [1, 12]


def test_completions_are_scored_in_the_tasks_own_spelling(teacher: Any) -> None:
    made, engine = teacher({"capture.completions": "gold"})
    assert engine.scores
    answers = made.answer(0, [question("a", 1, "positive"), question("b", 2, " negative "), question("c", 3, "maybe")])
    assert [ids(answer) for answer in answers[:2]] == [[[8, 0]], [[9, 0]]]
    assert answers[2] == Failure("the completion to score is not one that the task allows")
    assert engine.calls == [("score", [[8, 0], [9, 0]])]


def test_another_teachers_tokens_are_scored_as_they_are(teacher: Any) -> None:
    made, _ = teacher(TEXT)
    answers = made.answer(0, [question("a", 1, [8, 5]), question("b", 2, [8, 6]), question("c", 3, []), question("d")])
    assert ids(answers[0]) == [[8, 5]]
    assert answers[1] == Failure("the completion to score is not one that the task allows")
    assert answers[2] == Failure("the completion to score is empty")
    assert ids(answers[3]) == [[0, 0], [0, 1]], "a question without a completion beside them"


def test_a_completion_to_score_that_does_not_fit_is_a_failure(teacher: Any) -> None:
    made, _ = teacher({**TEXT, "capture.n": 1, "capture.completions": "gold"})
    fitting, long = " ".join("b" * 13), " ".join("b" * 14)
    answers = made.answer(0, [question("a", 0, fitting), question("a", 0, long)])
    assert ids(answers[0]) == [[*[5] * 13, 0]]
    assert answers[1] == Failure(
        "the prompt has 1 tokens and the completion to score 15, and 15 fit together into max_model_len (16)"
    )


def test_a_completion_that_the_engine_broke_off_is_a_failure(teacher: Any) -> None:
    made, engine = teacher()
    engine.reason = "abort"
    assert made.answer(0, [question("a")]) == [Failure("the engine ended a completion with 'abort'")]


def test_words_alone_are_stored_as_the_students_tokens(
    teacher: Any, make_tokenizer: Callable[..., Any], tmp_path: Path
) -> None:
    student = make_tokenizer("d c b a")
    student.save_pretrained(tmp_path / "student")
    (tmp_path / "student" / "config.json").write_text('{"model_type": "llama"}')
    words = {
        **TEXT,
        "capture.n": 1,
        "capture.mode": "text",
        "task.sampling.temperature": 1.0,
        "student.kd_weight": 0,
        "student.init": {"kind": "pretrained", "model": str(tmp_path / "student")},
    }
    made, engine = teacher(words)
    engine.text = "a d"
    (answer,) = made.answer(0, [question("b c", 7)])
    (completion,) = answer
    assert engine.calls == [("complete", [[5, 6]])], "the teacher reads its own tokens"
    assert (completion.prompt_token_ids, completion.token_ids) == ([4, 3], [5, 2, 0])
    assert (completion.token_logprobs, completion.signal) == (None, None)
    assert made.identity.tokenizer_hash == tokenizer_hash(student)
    engine.reason = "length"
    assert ids(made.answer(0, [question("b c", 7)])[0]) == [[5, 2]], "what was cut off teaches no end"


def test_only_teachers_whose_signal_is_averaged_score_others(make_recipe: MakeRecipe, teacher: Any) -> None:
    made, _ = teacher()
    assert made.identity.engine == "vllm 1.2"
    assert (made.identity.dtype, made.identity.model) == ("float32", "/nowhere/teacher")
    recipe = make_recipe({"ensemble": {"combine": "mean", "members": [{"name": "other", "model": "/nowhere/other"}]}})
    assert recipe.ensemble is not None
    first: Any = EngineTeacher(recipe, recipe.teacher)._engine
    other: Any = EngineTeacher(recipe, recipe.ensemble.members[0])._engine
    assert (first.scores, other.scores) == (False, True)
