"""A vLLM engine as a Serve deployment, on GPUs and on CPUs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError
from ray import serve
from ray.llm._internal.common.callbacks.base import CallbackBase
from ray.llm._internal.serve.core.configs.openai_api_models import ModelCard
from ray.serve.deployment import Application
from ray.serve.llm import LLMConfig, build_llm_deployment
from ray.serve.llm.deployment import LLMServer
from ray.serve.llm.ingress import OpenAiIngress, make_fastapi_ingress
from ray.serve.llm.openai_api_models import ChatCompletionRequest, CompletionRequest

from stillhouse.engine_arguments import engine_arguments, engine_environment
from stillhouse.recipe import Engine, Task
from stillhouse.task import sampling, structured_outputs

INGRESS_CPUS = 1
"""Logical CPUs of the OpenAI endpoint before an engine that is served alone."""

_REQUESTS = {"chat": ChatCompletionRequest, "completions": CompletionRequest}


class LocateModel(CallbackBase):
    """Finds the weights on the node where the engine starts; `locate` gives a folder, or a Hugging Face name."""

    async def on_before_node_init(self) -> None:
        """Called by Ray before it would download the model."""
        found = await asyncio.to_thread(self.kwargs["locate"])
        self.llm_config.get_engine_config().hf_model_id = found
        # Ray's download starts another process that imports vLLM again: not for a folder that is already here.
        self.ctx.run_init_node = not Path(found).is_dir()


class VLLMServer(LLMServer):
    """Ray's `LLMServer`, with whole answers as plain data, so that the gateway need not import vLLM."""

    # Serve awaits the constructor of a replica.
    async def __init__(self, llm_config: LLMConfig, *, first_request: dict[str, Any]) -> None:  # type: ignore[misc]
        self._first_request = first_request
        await super().__init__(llm_config)

    async def start(self) -> None:
        """Start the engine, and let it answer once: the first request compiles the grammar and would wait for seconds.

        Raises:
            RuntimeError: it does not answer.
        """
        await super().start()
        reply = await self.ask("completions", self._first_request)
        if "error" in reply:
            raise RuntimeError(f"the engine starts but does not answer: {reply['error']['message']}")

    async def ask(self, path: Literal["chat", "completions"], body: dict[str, Any]) -> dict[str, Any]:
        """A whole answer to a request of vLLM's, in OpenAI's shape, or `{"error": ...}`."""
        try:
            request = _REQUESTS[path](**body)
        except ValidationError as error:
            problem = error.errors()[0]
            param = ".".join(str(part) for part in problem["loc"])
            return {"error": {"message": f"{param}: {problem['msg']}", "param": param, "code": 400}}
        replies = await (self.chat(request) if path == "chat" else self.completions(request))
        found: dict[str, Any] = {}
        async for reply in replies:
            found = reply.model_dump()
        return found


def deployment(
    name: str, model_id: str, engine: Engine, task: Task, locate: Callable[[], str], *, max_logprobs: int = 20
) -> Application:
    """The Serve deployment of one engine.

    Args:
        name: the deployment's name.
        locate: finds the model on the node where the engine starts; it is pickled.
        max_logprobs: of the most probable tokens that a request may ask for.
    """
    config = LLMConfig(
        model_loading_config={"model_id": model_id},
        engine_kwargs={**engine_arguments(engine, task), "max_logprobs": max_logprobs},
        callback_config={"callback_class": LocateModel, "callback_kwargs": {"locate": locate}},
        deployment_config={
            "num_replicas": 1,
            # The bundle below holds the replica's CPUs; Ray would add one more.
            "ray_actor_options": {"num_cpus": 0},
        },
        # Serve LLM would hold each chunk back for 50 ms.
        experimental_configs={"stream_batching_interval_ms": 0},
        runtime_env={"env_vars": engine_environment(engine, engine.cpus)},
        **_placement(engine),
    )
    first = {"model": model_id, "prompt": "Hello", "logprobs": 0, **sampling(task), "max_tokens": 2}
    if constraint := structured_outputs(task):
        first["structured_outputs"] = constraint
    return build_llm_deployment(
        config,
        bind_kwargs={"first_request": first},
        override_serve_options={"name": name},
        deployment_cls=VLLMServer,
    )


def openai_ingress(model_id: str, engine: Application) -> Application:
    """Ray Serve LLM's own OpenAI endpoint before one engine."""
    card = ModelCard(id=model_id, object="model", owned_by="stillhouse", permission=[], metadata={})
    options = OpenAiIngress.get_deployment_options()
    made = serve.deployment(
        make_fastapi_ingress(OpenAiIngress), name="openai", ray_actor_options={"num_cpus": INGRESS_CPUS}, **options
    )
    return made.bind(llm_deployments={model_id: engine}, model_cards={model_id: card})


def logical_cpus(engine: Engine) -> int:
    """The CPUs that Ray sets aside for an engine's deployment."""
    return (engine.cpus or 1) if engine.device == "cpu" else 0


def _placement(engine: Engine) -> dict[str, Any]:
    if engine.device == "cpu":
        bundles = [{"CPU": logical_cpus(engine)}]
        return {"accelerator_config": {"kind": "cpu"}, "placement_group_config": {"bundles": bundles}}
    return {"accelerator_type": engine.accelerator_type} if engine.accelerator_type else {}
