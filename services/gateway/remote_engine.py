"""A student at an endpoint as the gateway sees it: the same question, asked over HTTP."""

from __future__ import annotations

import logging
import time

from services.gateway.engine import HEALTH_TIMEOUT_S, EngineFailed, EngineRefused, Generation, Question, Token, Usage
from stillhouse.endpoint.chat import ChatAnswer, ChatModel
from stillhouse.endpoint.errors import Refused, Rejected, Unsupported
from stillhouse.errors import UserError
from stillhouse.recipe import Task
from stillhouse.task import answer, gold_completion

logger = logging.getLogger(__name__)

HEALTH_LASTS_S = 30.0
"""How long an answer to "is the model there?" is believed, in seconds: probes come oftener than an API is asked."""


class RemoteEngine:
    """A model at an OpenAI-compatible endpoint."""

    def __init__(self, model: ChatModel, task: Task) -> None:
        self._model, self._task = model, task
        self._healthy: tuple[float, bool] = (float("-inf"), False)

    async def ask(self, question: Question) -> Generation:
        """See `Engine.ask`. Constraints in vLLM's words are left out: the model was trained to keep the contract."""
        # What was wrong for one request may be right for the next.
        self._model.endpoint.reopen()
        try:
            found = await self._model.ask(question.prompt, question.parameters, top_logprobs=question.top_logprobs)
        except Unsupported as error:
            raise EngineRefused(str(error), param=error.parameter) from error
        except Rejected as error:
            raise EngineRefused(str(error), too_long=error.too_long) from error
        except (Refused, UserError) as error:
            raise EngineFailed(f"{self._model.model} failed: {error}") from error
        return Generation(
            text=self._text(question, found),
            finish_reason=found.finish_reason,
            tokens=tuple(Token(token.text, token.logprob, token.top) for token in found.tokens),
            usage=Usage(found.prompt_tokens, found.completion_tokens),
            spelled=bool(found.tokens),
        )

    async def healthy(self) -> bool:
        """Whether the endpoint has the model, as it said in the last half minute."""
        asked, healthy = self._healthy
        if time.monotonic() - asked > HEALTH_LASTS_S:
            healthy = await self._model.known(HEALTH_TIMEOUT_S)
            self._healthy = (time.monotonic(), healthy)
            if not healthy:
                logger.warning("%s is not ready at %s", self._model.model, self._model.endpoint.url)
        return healthy

    def _text(self, question: Question, found: ChatAnswer) -> str:
        """A choice after a plain prompt is spelled as the task does, with the space that a chat's message lacks."""
        said = answer(self._task, found.text) if self._task.kind == "choices" else None
        return found.text if said is None or question.prompt.text is None else gold_completion(self._task, said)
