"""Low-rank adapters: the student's own weights stay, and small matrices beside its linear layers are trained.

LoRA (https://arxiv.org/abs/2106.09685), and QLoRA (https://arxiv.org/abs/2305.14314) with frozen weights in 4 bits.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from stillhouse.errors import UserError
from stillhouse.recipe import Lora

_ADAPTER = "default"


def quantization() -> dict[str, Any]:
    """Arguments for `from_pretrained` that load a model's linear layers in nf4, on this worker's GPU.

    Raises:
        UserError: no GPU, or no bitsandbytes.
    """
    if not torch.cuda.is_available():
        raise UserError("`student.lora.quantize: nf4` needs a GPU, and this worker has none")
    return {"quantization_config": nf4(), "device_map": {"": torch.cuda.current_device()}}


def nf4() -> Any:
    """QLoRA's quantization: 4-bit normal floats, their scales quantized again, computed with in bfloat16.

    Raises:
        UserError: bitsandbytes is not installed.
    """
    from transformers import BitsAndBytesConfig

    try:
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    except ImportError as error:
        raise UserError("`student.lora.quantize: nf4` needs bitsandbytes, which is not installed") from error


def add_adapters(model: Any, lora: Lora, *, seed: int, say: Callable[[str], None]) -> Any:
    """Put adapters into the model, in place, and freeze all else; the model stays what it is, a plain Hugging Face one.

    They begin at zero: the model answers as before.

    Args:
        seed: of the adapters' first weights.
        say: told the trainable share.

    Returns:
        The model.

    Raises:
        UserError: a target that no linear layer is named.
    """
    from peft import LoraConfig, inject_adapter_in_model, prepare_model_for_kbit_training

    if is_quantized(model):
        prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=_targets(model, lora),
        task_type="CAUSAL_LM",
        base_model_name_or_path=model.name_or_path or None,
    )
    with seeded(seed):
        inject_adapter_in_model(config, model, adapter_name=_ADAPTER)
    counts = [sum(p.numel() for p in model.parameters() if p.requires_grad), parameters(model)]
    say(f"adapters of rank {lora.rank}: {counts[0] / 1e6:.2f}M parameters are trained, {counts[0] / counts[1]:.2%}")
    return model


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from a seed, and leave what is drawn after it as if nothing had been."""
    gpus = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(gpus):
        torch.manual_seed(seed)
        yield


def linear_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """The linear layers that can have an adapter, by name: all but the head."""
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and module is not head:
            yield name, module


def adapted_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """The layers that have an adapter, by name."""
    if not hasattr(model, "peft_config"):
        return
    from peft.tuners.lora import LoraLayer

    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


def is_quantized(model: Any) -> bool:
    """Whether the model's weights are in 4 bits."""
    return bool(getattr(model, "is_loaded_in_4bit", False))


def parameters(model: Any) -> int:
    """How many there are, whether partitioned or packed into 4 bits."""
    count = 0
    for parameter in model.parameters():
        packed = getattr(parameter, "quant_state", None)
        count += packed.shape.numel() if packed is not None else getattr(parameter, "ds_numel", parameter.numel())
    return count


@torch.no_grad()
def delta(layer: Any) -> torch.Tensor:
    """What an adapter adds to its layer's weight, [out, in], float32."""
    low, high = layer.lora_A[_ADAPTER].weight.float(), layer.lora_B[_ADAPTER].weight.float()
    return (high @ low) * layer.scaling[_ADAPTER]


def save_adapter(model: Any, folder: Path) -> None:
    """Write the adapters as peft reads them: adapter_config.json, and adapter_model.safetensors in float32."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, layer in adapted_layers(model):
        for part in ("lora_A", "lora_B"):
            weight = getattr(layer, part)[_ADAPTER].weight.detach()
            tensors[f"base_model.model.{name}.{part}.weight"] = weight.to("cpu", torch.float32).contiguous()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = copy.deepcopy(model.peft_config[_ADAPTER])
    config.inference_mode = True
    config.target_modules = sorted(config.target_modules)  # a set: written in another order by every process
    config.save_pretrained(folder)


def enable_checkpointing(model: Any, *, zero_stage: int) -> None:
    """Compute each layer's activations again in the backward pass instead of keeping them."""
    # ZeRO-3 gathers weights in hooks that torch's other way of checkpointing does not run again.
    reentrant = zero_stage == 3
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    if reentrant:
        model.enable_input_require_grads()  # else nothing would reach the adapters of frozen layers


def _targets(model: Any, lora: Lora) -> list[str]:
    names = sorted({name.rpartition(".")[2] for name, _ in linear_layers(model)})
    for target in lora.targets:
        if not any(name == target or name.endswith(f".{target}") for name, _ in linear_layers(model)):
            near = difflib.get_close_matches(target, names, n=1)
            hint = f"; did you mean `{near[0]}`?" if near else ""
            raise UserError(
                f"student.lora.targets: no linear layer of the student is named `{target}`{hint} (it has"
                f" {', '.join(names)})"
            )
    return list(lora.targets) or names
