"""The teacher's deployment."""

from __future__ import annotations

from functools import partial

from ray.serve.deployment import Application

from stillhouse import models
from stillhouse.recipe import Recipe


def teacher(recipe: Recipe, model_id: str) -> Application:
    """The recipe's teacher behind vLLM; a GGUF file is converted on the node where the engine starts."""
    # Imported here, since vLLM takes ten seconds.
    from services.vllm_server import deployment

    locate = partial(models.resolve, recipe.teacher.model)
    return deployment("teacher", model_id, recipe.teacher.engine, recipe.task, locate)
