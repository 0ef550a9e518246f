"""What of a model decides how much memory its training takes, counted without its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM

from ray_jobs.train.lora import linear_layers


@dataclass(frozen=True)
class Linear:
    """A linear layer that can have an adapter."""

    name: str
    inputs: int
    outputs: int


@dataclass(frozen=True)
class Kept:
    """What autograd keeps of one record of the shape's length, in bytes.

    Attributes:
        layers: of all the layers.
        rest: of the embedding and the final norm.
    """

    layers: int
    rest: int


@dataclass(frozen=True)
class ModelShape:
    """A causal language model's sizes.

    Attributes:
        parameters: of the whole model, tied ones once.
        largest: numbers in the largest of them, the embedding usually.
        loaded: parameters of the model that its weights are taken from, if that is larger.
        vocabulary: rows of its head.
        hidden: features in front of the head.
        depth: number of layers.
        tied: whether the head is the embedding.
        linear: the linear layers but the head.
        length: tokens of the record that `kept` is of.
        kept: by the type that the model computes in.
    """

    parameters: int
    largest: int
    loaded: int
    vocabulary: int
    hidden: int
    depth: int
    tied: bool
    linear: tuple[Linear, ...]
    length: int
    kept: Mapping[torch.dtype, Kept]


def model_shape(config: Any, *, length: int, vocabulary: int | None = None, source: Any | None = None) -> ModelShape:
    """The shape of a model, from its config alone (see `student_config`).

    Args:
        length: tokens of the longest record.
        vocabulary: rows that the embedding is to have at least: it grows to the tokenizer's.
        source: config of the model that its layers are cut from, all of which is loaded first (see `source_config`).
    """
    config = type(config)(**config.to_dict())
    if vocabulary is not None:
        config.vocab_size = max(config.vocab_size, vocabulary)
    model = _empty(config)
    head = model.get_output_embeddings()
    size = _parameters(model)
    return ModelShape(
        parameters=size,
        loaded=size if source is None else max(size, _parameters(_empty(source))),
        largest=max(parameter.numel() for parameter in model.parameters()),
        vocabulary=head.out_features,
        hidden=head.in_features,
        depth=config.num_hidden_layers,
        tied=head.weight is model.get_input_embeddings().weight,
        linear=tuple(Linear(name, one.in_features, one.out_features) for name, one in linear_layers(model)),
        length=length,
        kept={dtype: _kept(config, length, dtype) for dtype in (torch.float32, torch.bfloat16)},
    )


def _empty(config: Any) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def _parameters(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _kept(config: Any, length: int, dtype: torch.dtype) -> Kept:
    """Run the model forward without data, and see what it keeps: each storage once, its weights left out."""
    sizes: dict[int, int] = {}
    alive = []  # else an address would be given to another storage

    with FakeTensorMode():
        model = AutoModelForCausalLM.from_config(config, dtype=dtype).train()
        weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in weights:
                sizes[storage._cdata] = storage.nbytes()
                alive.append(tensor)
            return tensor

        ids = torch.zeros((1, length), dtype=torch.int64)
        mask = torch.ones_like(ids)
        mask[:, -1] = 0  # attention keeps more with padding, which batches of unequal records have
        trunk = getattr(model, model.base_model_prefix)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            trunk(input_ids=ids, attention_mask=mask, use_cache=False)
        whole = sum(sizes.values())
    rest = min(whole, 4 * length * config.hidden_size * dtype.itemsize)
    return Kept(layers=whole - rest, rest=rest)
