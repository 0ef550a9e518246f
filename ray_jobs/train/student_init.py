"""The student before its first step."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM

from stillhouse.errors import UserError
from stillhouse.models import load_tokenizer, resolve, token_source
from stillhouse.recipe import Recipe
from stillhouse.signal.alignment import require_same_tokens


def make_student(recipe: Recipe) -> tuple[Any, Any]:
    """The student's model (float32) and its tokenizer, which is the one of the captured tokens.

    Raises:
        UserError: an unknown model, more layers than the teacher has, or another tokenizer than the teacher's.
    """
    init, tokenizer = recipe.student.init, load_tokenizer(token_source(recipe))
    if init.model is not None:
        own = load_tokenizer(init.model)
        require_same_tokens(tokenizer, own)
        return _load(init.model), own
    teacher = _load(recipe.teacher.model)
    return cut_layers(teacher, init.layers), tokenizer


def cut_layers(model: Any, layers: int) -> Any:
    """The model with `layers` of its own, evenly spaced, the first and the last kept (as DistilBERT and Minitron do).

    Embeddings, final norm and head stay as they are.

    Raises:
        UserError: it has fewer.
    """
    stack = model.model.layers
    if layers > len(stack):
        raise UserError(f"student.init.layers: {layers} is more than the teacher's {len(stack)}")
    kept = [round(i * (len(stack) - 1) / max(1, layers - 1)) for i in range(layers)]
    model.model.layers = torch.nn.ModuleList([stack[i] for i in kept])
    for place, layer in enumerate(model.model.layers):
        layer.self_attn.layer_idx = place  # the KV cache is addressed by it
    model.config.num_hidden_layers = layers
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = [model.config.layer_types[i] for i in kept]
    return model


def _load(model: str) -> Any:
    try:
        return AutoModelForCausalLM.from_pretrained(resolve(model), dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise UserError(f"the model {model} cannot be loaded: {str(error).splitlines()[0]}") from error
