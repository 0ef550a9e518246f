"""What an endpoint's reply holds: completions, their distributions, and what they cost.

OpenAI names tokens by what they spell, vLLM by their ids. Either way a reply is believed only where it fits the
tokenizer that the recipe says the endpoint uses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray_jobs.capture.endpoint_requests import Request
from ray_jobs.capture.vocabulary import Vocabulary
from stillhouse.cost.billing import BilledTokens
from stillhouse.endpoint.chat import CHAT, token_bytes
from stillhouse.endpoint.errors import Refused
from stillhouse.errors import UserError
from stillhouse.recipe import Recipe, Teacher
from stillhouse.signal.cut import cut
from stillhouse.signal.schema import Completion
from stillhouse.signal.sparse import SparseSignal
from stillhouse.task import completion_token_ids, decoding

_IMPOSSIBLE = -9999.0
"""vLLM's stand-in for the logprob -inf, which JSON cannot hold."""

_LOST = "�".encode()
_TOKEN_ID = "token_id:"


class NoLogprobs(Refused):
    """A reply without the logprobs that were asked for."""


class Mismatch(Exception):
    """The endpoint uses another tokenizer than the recipe says; one clause."""


@dataclass(frozen=True)
class _Token:
    """One token of a completion: its id, its logprob, and the most probable ones, in no order."""

    id: int
    logprob: float
    top: Sequence[tuple[int, float]]


class Replies:
    """Reads the replies of one capture.

    Args:
        tokenizer: the one whose ids the capture stores.
    """

    def __init__(self, recipe: Recipe, teacher: Teacher, tokenizer: Any) -> None:
        self._recipe, self._teacher, self._tokenizer = recipe, teacher, tokenizer
        self._with_signal = recipe.capture.mode == "topk"
        self._vocabulary = Vocabulary(tokenizer) if self._with_signal else None
        self._allowed = (
            frozenset(decoding(recipe.task, tokenizer).get("allowed_token_ids", ()))
            if self._with_signal
            else frozenset()
        )

    def completions(self, request: Request, reply: Mapping[str, Any]) -> list[Completion]:
        """The completions in a reply.

        Raises:
            Refused: they are not what was asked for.
            NoLogprobs: the logprobs are missing.
            UserError: the endpoint's tokenizer is not the recipe's.
        """
        n = self._recipe.capture.n
        choices = reply.get("choices")
        if not isinstance(choices, list) or len(choices) != n or not all(isinstance(c, dict) for c in choices):
            came = len(choices) if isinstance(choices, list) else "no"
            raise Refused(f"the endpoint sent {came} completions where {n} were asked for")
        try:
            if self._with_signal:
                self._check_prompt(request, reply, choices[0])
            return [self._completion(request, choice) for choice in choices]
        except Mismatch as error:
            raise UserError(
                f"the endpoint {self._teacher.url} does not use the tokenizer {self._teacher.tokenizer!r}: {error};"
                " name the right one in `teacher.tokenizer`, or use `capture.mode: text`"
            ) from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Refused(f"the endpoint's answer has not the shape of a completion ({type(error).__name__})") from None

    def _completion(self, request: Request, choice: Mapping[str, Any]) -> Completion:
        text = _text(request, choice)
        stopped = choice.get("finish_reason")
        if stopped not in ("stop", "length"):
            raise Refused(f"the endpoint ended the completion for another reason than its end: {str(stopped)[:40]!r}")
        if not self._with_signal:
            ids = completion_token_ids(text, self._tokenizer, ended=stopped == "stop")
            return Completion(request.prompt_token_ids, text, ids, stopped, None, None)
        tokens = self._named(request, choice) if self._teacher.api == "vllm" else self._spelled(request, choice)
        self._check_text(text, [token.id for token in tokens], whole=self._teacher.api == "openai")
        if self._teacher.api == "openai" and stopped == "stop" and not self._recipe.task.sampling.stop:
            # OpenAI tells that the sequence ended, but not how probable that was.
            tokens = [*tokens, _Token(self._tokenizer.eos_token_id, math.nan, ())]
        return Completion(
            prompt_token_ids=request.prompt_token_ids,
            text=text,
            token_ids=[token.id for token in tokens],
            finish_reason=stopped,
            token_logprobs=[token.logprob for token in tokens],
            signal=self._signal(tokens),
        )

    def _named(self, request: Request, choice: Mapping[str, Any]) -> list[_Token]:
        """vLLM's tokens: their ids, and logprobs whose tokens are told by id."""
        ids, logprobs = choice.get("token_ids"), choice.get("logprobs")
        if not ids or not logprobs:
            raise NoLogprobs("the endpoint's answer lacks token ids or logprobs: is it vLLM?")
        if request.path == CHAT:
            content = logprobs["content"]
            named = [_number(entry["token"]) for entry in content]
            values = [entry["logprob"] for entry in content]
            tops = [[(_number(top["token"]), top["logprob"]) for top in entry["top_logprobs"]] for entry in content]
        else:
            named, values = [_number(token) for token in logprobs["tokens"]], logprobs["token_logprobs"]
            tops = [[(_number(token), value) for token, value in top.items()] for top in logprobs["top_logprobs"]]
        if named != ids:
            raise NoLogprobs("the endpoint's logprobs are of other tokens than its token ids")
        k = self._recipe.capture.top_k
        found = []
        for token, value, top in zip(ids, values, tops, strict=True):
            ranked = sorted(top, key=lambda entry: -entry[1])
            if request.path == CHAT and 1 < len(ranked) == k and ranked[-1][0] == token:
                # vLLM puts the sampled token first and then cuts at k: it may stand where the k-th belongs.
                ranked = ranked[:-1]
            found.append(_Token(token, value, [entry for entry in ranked[:k] if entry[1] > _IMPOSSIBLE]))
        assert self._vocabulary is not None
        for token_id in (each for token in found for each in [token.id, *(i for i, _ in token.top)]):
            if not self._vocabulary.name(token_id):
                raise Mismatch(f"it wrote the token number {token_id}, and the vocabulary has {self._vocabulary.size}")
            if self._allowed and token_id not in self._allowed:
                raise UserError(
                    f"the endpoint {self._teacher.url} tells logprobs that are not normalised among the choices: start"
                    " its vLLM with `--logprobs-mode processed_logprobs`, or use `capture.mode: text`"
                )
        return found

    def _spelled(self, request: Request, choice: Mapping[str, Any]) -> list[_Token]:
        """OpenAI's tokens, found by what they spell."""
        logprobs = choice.get("logprobs") or {}
        if request.path == CHAT:
            content = logprobs.get("content")
            if content is None or any(not entry.get("top_logprobs") for entry in content):
                raise NoLogprobs("the endpoint's answer has no logprobs")
            return [
                _Token(
                    self._id(token_bytes(entry)),
                    entry["logprob"],
                    [(self._id(token_bytes(top)), top["logprob"]) for top in entry["top_logprobs"]],
                )
                for entry in content
            ]
        if not logprobs.get("top_logprobs"):
            raise NoLogprobs("the endpoint's answer has no logprobs")
        named = zip(logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True)
        return [
            _Token(self._id(_legacy(token)), value, [(self._id(_legacy(name)), of) for name, of in top.items()])
            for token, value, top in named
        ]

    def _id(self, spelled: bytes) -> int:
        assert self._vocabulary is not None
        try:
            return self._vocabulary.id_of(spelled)
        except LookupError:
            if _LOST in spelled:
                raise NoLogprobs(
                    "the endpoint does not tell the bytes of a token: is it vLLM, and `api: vllm`?"
                ) from None
            raise Mismatch(f"it wrote the token {_told(spelled)}, which is not one token of the vocabulary") from None

    def _check_prompt(self, request: Request, reply: Mapping[str, Any], choice: Mapping[str, Any]) -> None:
        """The endpoint read the prompt as the tokenizer does, template and all."""
        ours = request.prompt_token_ids
        theirs = reply.get("prompt_token_ids") or choice.get("prompt_token_ids")
        if self._teacher.api == "vllm" and theirs:
            if theirs != ours:
                raise Mismatch(self._differing(ours, theirs))
            return
        count = (reply.get("usage") or {}).get("prompt_tokens")
        if count is not None and count != len(ours):
            kind = "chat template and tokenizer make" if request.path == CHAT else "tokenizer makes"
            raise Mismatch(f"it counted {count} tokens in a prompt of which that {kind} {len(ours)}")

    def _differing(self, ours: Sequence[int], theirs: Sequence[int]) -> str:
        assert self._vocabulary is not None
        place = next(
            (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
        )
        told = [
            f"number {ids[place]} ({self._vocabulary.name(ids[place])!r})" if place < len(ids) else "missing"
            for ids in (ours, theirs)
        ]
        return f"token {place + 1} of a prompt is {told[0]}, and at the endpoint {told[1]}"

    def _check_text(self, text: str, ids: Sequence[int], *, whole: bool) -> None:
        """The tokens spell the completion; vLLM's may go on into the stop text that ended it."""
        assert self._vocabulary is not None
        spelled = self._vocabulary.text(ids).decode(errors="replace")
        # A character that was cut off in its middle is told in different ways.
        same = spelled.rstrip("�") == text.rstrip("�") if whole else spelled.startswith(text.rstrip("�"))
        if not same:
            there = slice(place := _first_difference(spelled, text), place + 20)
            raise Mismatch(f"its tokens spell {spelled[there]!r} where the completion has {text[there]!r}")

    def _signal(self, tokens: Sequence[_Token]) -> SparseSignal:
        kept = [
            sorted((entry for entry in token.top if math.isfinite(entry[1])), key=lambda entry: -entry[1])[
                : self._recipe.capture.top_k
            ]
            for token in tokens
        ]
        found = SparseSignal.of([[i for i, _ in top] for top in kept], [[value for _, value in top] for top in kept])
        return found if self._recipe.capture.mass is None else cut(found, self._recipe.capture.mass)


def usage(reply: Mapping[str, Any]) -> BilledTokens | None:
    """The tokens that a reply was billed for; None where it does not say."""
    told = reply.get("usage")
    if not isinstance(told, dict):
        return None
    prompt, completion = told.get("prompt_tokens"), told.get("completion_tokens")
    if not all(isinstance(count, int) and count >= 0 for count in (prompt, completion)):
        return None
    return BilledTokens(prompt=prompt, completion=completion)


def _first_difference(first: Sequence[Any], second: Sequence[Any]) -> int:
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))


def _text(request: Request, choice: Mapping[str, Any]) -> str:
    text = choice["message"].get("content") if request.path == CHAT else choice.get("text")
    if isinstance(text, str):
        return text
    if request.path == CHAT and choice["message"].get("refusal"):
        raise Refused("the model refused to answer")
    raise Refused("the endpoint's answer holds no text")


def _number(token: str) -> int:
    if not token.startswith(_TOKEN_ID):
        raise NoLogprobs("the endpoint does not tell its tokens by number: is it vLLM?")
    return int(token.removeprefix(_TOKEN_ID))


def _legacy(token: str) -> bytes:
    """The completions API writes a token that is no text as `bytes:\\xe2\\x80`."""
    if token.startswith("bytes:\\x"):
        return bytes.fromhex(token.removeprefix("bytes:").replace("\\x", ""))
    return token.encode()


def _told(spelled: bytes) -> str:
    return repr(spelled.decode(errors="backslashreplace"))[:60]
