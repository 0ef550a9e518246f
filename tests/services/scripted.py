"""Engines that say what a test tells them, for the tests beside those with real engines."""

import asyncio
import math

from services.gateway.engine import Generation, Question, Token, Usage


def says(text: str, *logprobs: float, prompt_tokens: int = 10, finish_reason: str = "stop") -> Generation:
    """An answer of as many tokens as there are logprobs."""
    tokens = tuple(Token(f"t{i}", logprob, ((f"t{i}", logprob), ("other", -9.0))) for i, logprob in enumerate(logprobs))
    return Generation(text, finish_reason, tokens, Usage(prompt_tokens, len(logprobs)))


def sure(text: str) -> Generation:
    """An answer of two tokens, of confidence 0.9."""
    return says(text, math.log(0.9), 0.0)


def unsure(text: str) -> Generation:
    """An answer of two tokens, of confidence 0.3."""
    return says(text, math.log(0.5), math.log(0.6))


class Scripted:
    """Gives one reply to every question; an exception is raised, and `HANGS` never comes."""

    HANGS = object()

    def __init__(self, reply: object, *, healthy: bool = True) -> None:
        self.reply = reply
        self.is_healthy = healthy
        self.questions: list[Question] = []
        self.cancelled = 0

    async def ask(self, question: Question) -> Generation:
        self.questions.append(question)
        if self.reply is self.HANGS:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        if isinstance(self.reply, Exception):
            raise self.reply
        assert isinstance(self.reply, Generation)
        return self.reply

    async def healthy(self) -> bool:
        return self.is_healthy
