"""A teacher whose weights are run here, by a vLLM engine."""

from __future__ import annotations

from collections.abc import Sequence

from ray_jobs.capture.teacher import Answer, Failure, Identity, Question
from ray_jobs.engine import BatchEngine
from stillhouse.models import load_tokenizer, token_source
from stillhouse.recipe import Recipe
from stillhouse.recipe import Teacher as TeacherSection
from stillhouse.signal.alignment import template_hash, tokenizer_hash
from stillhouse.signal.schema import Completion
from stillhouse.task import answer, completion_token_ids, gold_completion, token_ids


class EngineTeacher:
    """Holds the engine; one of a recipe's teachers, each in its own actors.

    Raises:
        UserError: the model cannot be run as the recipe says.
    """

    def __init__(self, recipe: Recipe, teacher: TeacherSection) -> None:
        self._task, self._capture = recipe.task, recipe.capture
        others = recipe.ensemble is not None and recipe.ensemble.combine == "mean" and teacher is not recipe.teacher
        scores = others or recipe.capture.completions != "teacher"
        self._engine = BatchEngine(teacher.model, teacher.engine, recipe.task, recipe.capture, scores=scores)
        self._tokenizer = self._engine.tokenizer
        # Words alone are stored as tokens of a student that has a tokenizer of its own.
        own = recipe.capture.mode == "text" and recipe.student.init.model is not None
        self._stored = load_tokenizer(token_source(recipe)) if own else self._tokenizer
        self.identity = Identity(
            model=teacher.model,
            tokenizer_hash=tokenizer_hash(self._stored),
            template_hash=template_hash(self._stored),
            engine=f"vllm {self._engine.version}",
            dtype=self._engine.dtype,
        )

    def answer(self, part: int, questions: Sequence[Question]) -> list[Answer]:
        """As `Teacher.answer`: writes what has no completion, and scores what has one."""
        found: dict[int, Answer] = {}
        asked: list[tuple[int, list[int]]] = []
        scored: list[tuple[int, list[int], list[int]]] = []
        for i, question in enumerate(questions):
            prompt = token_ids(question.prompt, self._tokenizer)
            completion = None if question.completion is None else self._completion_ids(question.completion)
            if isinstance(completion, Failure):
                found[i] = completion
            elif failure := self._too_long(prompt, completion):
                found[i] = failure
            elif completion is None:
                asked.append((i, prompt))
            else:
                scored.append((i, prompt, completion))
        if asked:
            seeds = [questions[i].seed for i, _ in asked]
            made = self._engine.complete([prompt for _, prompt in asked], n=self._capture.n, seeds=seeds)
            for (i, _), completions in zip(asked, made, strict=True):
                broken = {one.finish_reason for one in completions} - {"stop", "length"}
                if broken:
                    found[i] = Failure(f"the engine ended a completion with {broken.pop()!r}")
                else:
                    found[i] = self._in_stored_tokens(questions[i], completions)
        if scored:
            seeds = [questions[i].seed for i, _, _ in scored]
            prompts, given = [prompt for _, prompt, _ in scored], [ids for _, _, ids in scored]
            for (i, _, _), one in zip(scored, self._engine.score(prompts, given, seeds=seeds), strict=True):
                found[i] = _outside() if one is None else self._in_stored_tokens(questions[i], [one])
        return [found[i] for i in range(len(questions))]

    def _in_stored_tokens(self, question: Question, completions: list[Completion]) -> list[Completion]:
        """The completions as they are, or as tokens of the student's, whose logprobs nobody knows."""
        if self._stored is self._tokenizer:
            return completions
        prompt = token_ids(question.prompt, self._stored)
        return [
            Completion(
                prompt_token_ids=prompt,
                text=one.text,
                token_ids=completion_token_ids(one.text, self._stored, ended=one.finish_reason == "stop"),
                finish_reason=one.finish_reason,
                token_logprobs=None,
                signal=None,
            )
            for one in completions
        ]

    def _completion_ids(self, completion: str | list[int]) -> list[int] | Failure:
        """A whole text's tokens with the end of the sequence, or another teacher's as they are."""
        if not isinstance(completion, str):
            return list(completion) or Failure("the completion to score is empty")
        graded = answer(self._task, completion)
        if graded is None:
            return _outside()
        # A choice has the space that the prompt needs before it; any other completion is the data's own.
        text = gold_completion(self._task, graded) if self._task.kind == "choices" else completion
        return completion_token_ids(text, self._tokenizer, ended=True)

    def _too_long(self, prompt: Sequence[int], completion: Sequence[int] | None) -> Failure | None:
        whole = self._engine.max_model_len
        if completion is None:
            fit = whole - self._task.max_tokens
            if len(prompt) > fit:
                return Failure(
                    f"the prompt has {len(prompt)} tokens, and {fit} fit beside max_tokens ({self._task.max_tokens})"
                    f" into max_model_len ({whole})"
                )
        # vLLM writes a token after what it scores.
        elif len(prompt) + len(completion) > whole - 1:
            return Failure(
                f"the prompt has {len(prompt)} tokens and the completion to score {len(completion)}, and {whole - 1}"
                f" fit together into max_model_len ({whole})"
            )
        return None


def _outside() -> Failure:
    return Failure("the completion to score is not one that the task allows")
