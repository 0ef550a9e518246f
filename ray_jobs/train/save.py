"""The student after its last step: a folder that transformers and vLLM load."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ray_jobs.train.lora import adapted_layers, delta, is_quantized, save_adapter


@contextmanager
def gathered(deepspeed: Any, model: Any) -> Iterator[None]:
    """The model's weights whole in every worker, if ZeRO-3 has partitioned them; every worker must enter."""
    partitioned = [parameter for parameter in model.parameters() if hasattr(parameter, "ds_id")]
    with deepspeed.zero.GatheredParameters(partitioned, modifier_rank=None, enabled=bool(partitioned)):
        yield


def write_folder(
    model: Any,
    tokenizer: Any,
    folder: Path,
    *,
    dtype: torch.dtype,
    card: str,
    base: Callable[[], Any] | None = None,
) -> None:
    """Write a Hugging Face folder: safetensors, config, tokenizer, README.md, and `adapter/` where there is one.

    The model is read, and not changed: adapters are merged into copies of its weights.

    Args:
        model: the student's, its weights whole (see `gathered`).
        dtype: of the written weights.
        card: the text of README.md.
        base: for a model in 4 bits, gives the same model before quantization, which its adapters are merged into.
    """
    merged(model, dtype=dtype, base=base).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(card, encoding="utf-8")
    if any(adapted_layers(model)):
        save_adapter(model, folder / "adapter")


@torch.no_grad()
def merged(model: Any, *, dtype: torch.dtype = torch.float32, base: Callable[[], Any] | None = None) -> Any:
    """A plain model on the CPU with the adapters merged in; weights that need no change are shared with the given one.

    Args:
        base: as in `write_folder`.

    Raises:
        ValueError: a model in 4 bits without `base`.
    """
    if is_quantized(model):
        if base is None:
            raise ValueError("a model in 4 bits is merged through its weights before quantization: give `base`")
        plain = base()
    else:
        plain = model
    state = {
        name.replace(".base_layer.", "."): value.detach()
        for name, value in plain.state_dict().items()
        if ".lora_" not in name
    }
    for name, layer in adapted_layers(model):
        weight = state[f"{name}.weight"]
        state[f"{name}.weight"] = weight.float() + delta(layer).to(weight.device)
    return _assembled(
        plain, {name: value.to("cpu", dtype if value.is_floating_point() else None) for name, value in state.items()}
    )


def _assembled(model: Any, state: dict[str, torch.Tensor]) -> Any:
    """A model of the same class and config with these weights."""
    config = copy.deepcopy(model.config)
    config.use_cache = True
    with torch.device("meta"):
        plain = type(model)(config)
    plain.load_state_dict(state, assign=True)
    plain.tie_weights()
    for name, buffer in model.named_buffers():
        if buffer is not None and name not in state:  # those that no checkpoint holds: rotary frequencies
            place, _, key = name.rpartition(".")
            plain.get_submodule(place).register_buffer(key, buffer.detach().to("cpu", copy=True), persistent=False)
    plain.generation_config = copy.deepcopy(model.generation_config)
    plain.requires_grad_(False)
    return plain.eval()
