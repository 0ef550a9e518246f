"""A student with random weights, in the teacher's architecture at another size."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM

from stillhouse.errors import UserError

_LONGEST_REASON = 300
"""Characters of another library's error that go into a sentence of ours."""


def make(teacher: Any, changes: Mapping[str, Any], *, dtype: torch.dtype) -> Any:
    """A model of the teacher's config with some keys changed, its weights drawn with torch's generator.

    Args:
        teacher: the teacher's config.
        changes: keys of it, with their new values.

    Raises:
        UserError: a key that the config does not have, or values that make no model.
    """
    return AutoModelForCausalLM.from_config(changed(teacher, changes), dtype=dtype)


def changed(teacher: Any, changes: Mapping[str, Any]) -> Any:
    """The teacher's config with some keys changed, and what follows from them.

    A head's size and the number of key-value heads follow the new sizes where the teacher's followed its own. What is
    listed for each layer is left to the architecture's default when the number of layers changes.

    Raises:
        UserError: as `make`.
    """
    data = teacher.to_dict()
    for key in changes:
        _require_known(key, data)
    new = {**data, **changes}
    depth = data["num_hidden_layers"]
    if new["num_hidden_layers"] != depth:
        new = {
            key: value for key, value in new.items() if key in changes or not is_per_layer(key, data.get(key), depth)
        }
    hidden, heads = data.get("hidden_size"), data.get("num_attention_heads")
    if hidden and heads:
        if "head_dim" not in changes and data.get("head_dim") == hidden // heads:
            new["head_dim"] = _divided(new, "hidden_size", "num_attention_heads")
        if "num_key_value_heads" not in changes and data.get("num_key_value_heads") == heads:
            new["num_key_value_heads"] = new["num_attention_heads"]
    if new.get("num_key_value_heads"):
        _divided(new, "num_attention_heads", "num_key_value_heads")
    try:
        config = type(teacher)(**new)
        _run(config)
    except Exception as error:  # whatever an architecture makes of values that it cannot take
        reason = " ".join(str(error).split())[:_LONGEST_REASON] or type(error).__name__
        raise UserError(f"student.init.config makes no {data['model_type']} model: {reason}") from error
    return config


def is_per_layer(key: str, value: Any, depth: int) -> bool:
    """Whether a config's value says something of each of `depth` layers."""
    return isinstance(value, list) and len(value) == depth and not key.endswith("token_id") and key != "architectures"


def _require_known(key: str, data: Mapping[str, Any]) -> None:
    if key == "model_type":
        raise UserError("student.init.config.model_type: a fresh student has the teacher's architecture")
    if key not in data:
        near = difflib.get_close_matches(key, data, n=1)
        hint = f"; did you mean `{near[0]}`?" if near else ""
        raise UserError(f"student.init.config.{key}: the teacher's config.json has no such key{hint}")


def _divided(values: Mapping[str, Any], whole: str, part: str) -> int:
    if not values[part] or values[whole] % values[part]:
        raise UserError(
            f"student.init.config: `{whole}` ({values[whole]}) must be a multiple of `{part}` ({values[part]})"
        )
    return int(values[whole] // values[part])


def _run(config: Any) -> None:
    """Run a model of the config without weights: shapes that do not fit fail here, in a moment."""
    with FakeTensorMode(), torch.no_grad():
        model = AutoModelForCausalLM.from_config(config)
        model(input_ids=torch.zeros((1, 4), dtype=torch.int64), use_cache=False)
