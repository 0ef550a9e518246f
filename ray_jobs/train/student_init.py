"""The student before its first step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from ray_jobs.train import fresh
from ray_jobs.train.lora import quantization, seeded
from stillhouse.errors import UserError
from stillhouse.models import load_tokenizer, resolve, token_source
from stillhouse.recipe import Recipe, StudentInit
from stillhouse.signal.alignment import require_same_tokens

_PROBE_LOGIT = 50.0
"""As large as logits come, so that what bends them (soft caps) shows."""


def make_student(
    recipe: Recipe, *, say: Callable[[str], None], dtype: torch.dtype = torch.float32, whole: bool = False
) -> tuple[Any, Any]:
    """The student's model and its tokenizer, which is the one of the captured tokens.

    Args:
        say: told what was changed about the model.
        dtype: of its weights; that of those which stay unquantised, for `lora.quantize`.
        whole: leave the weights unquantised whatever `lora.quantize` says: what adapters are merged into.

    Raises:
        UserError: an unknown model, layers that the teacher does not have, a config that makes no model, or another
            tokenizer than the teacher's.
    """
    with seeded(recipe.seed):
        model, tokenizer = _made(recipe, dtype, whole)
        _grow(model, tokenizer, say)
    model.generation_config = _generation(model, tokenizer)
    return model, tokenizer


def _made(recipe: Recipe, dtype: torch.dtype, whole: bool) -> tuple[Any, Any]:
    init, tokenizer = recipe.student.init, load_tokenizer(token_source(recipe))
    if init.kind == "fresh":
        return fresh.make(_config(recipe.teacher.model), _changes(recipe, tokenizer), dtype=dtype), tokenizer
    if init.model is not None:
        own = load_tokenizer(init.model)
        require_same_tokens(tokenizer, own)
        model = _load(init.model, recipe, dtype, whole)
        model.name_or_path = init.model
        return model, own
    teacher = _load(recipe.teacher.model, recipe, dtype, whole)
    model = cut_layers(teacher, chosen_layers(init, len(_stack(teacher))))
    model.name_or_path = ""  # no model of that name has these layers
    return model, tokenizer


def student_config(recipe: Recipe) -> Any:
    """The config of the model that `make_student` makes, without any weights; embeddings are not yet grown.

    Raises:
        UserError: as `make_student`.
    """
    init = recipe.student.init
    if init.kind == "fresh":
        return fresh.changed(_config(recipe.teacher.model), _changes(recipe, load_tokenizer(token_source(recipe))))
    if init.model is not None:
        return _config(init.model)
    config = _config(recipe.teacher.model)
    return cut_config(config, chosen_layers(init, config.num_hidden_layers))


def _changes(recipe: Recipe, tokenizer: Any) -> dict[str, Any]:
    """What a fresh student has other than the teacher: no rows for tokens that do not exist, which the loss would leave
    as random as they begin, so that a server could draw them."""
    return {"vocab_size": _largest(tokenizer) + 1, **recipe.student.init.config}


def source_config(recipe: Recipe) -> Any | None:
    """The config of the model that the student's layers are cut from, if they are.

    Raises:
        UserError: an unknown model.
    """
    return _config(recipe.teacher.model) if recipe.student.init.kind == "teacher_layers" else None


def chosen_layers(init: StudentInit, depth: int) -> list[int]:
    """Which of `depth` layers the student keeps, counted from 0, in rising order.

    `even` keeps the first and the last and spaces the others (as DistilBERT and Minitron do); `every` takes each n-th
    from the first, n as large as the depth allows.

    Raises:
        UserError: there are fewer.
    """
    if isinstance(init.layers, tuple):
        if init.layers[-1] >= depth:
            raise UserError(
                f"student.init.layers: there is no layer {init.layers[-1]}: the teacher has {depth}, counted from 0"
            )
        return list(init.layers)
    count = init.layers
    if count > depth:
        raise UserError(f"student.init.layers: {count} is more than the teacher's {depth}")
    if init.select == "even":
        return [round(i * (depth - 1) / max(1, count - 1)) for i in range(count)]
    if init.select == "every":
        return [i * (depth // count) for i in range(count)]
    first = {"first": count, "last": 0, "ends": -(-count // 2)}[init.select]
    return [*range(first), *range(depth - (count - first), depth)]


def cut_config(config: Any, kept: Sequence[int]) -> Any:
    """A copy of a model's config with these layers alone: whatever it lists for each layer is cut alike."""
    data = config.to_dict()
    depth = data["num_hidden_layers"]
    lists = {key: [value[i] for i in kept] for key, value in data.items() if fresh.is_per_layer(key, value, depth)}
    return type(config)(**{**data, **lists, "num_hidden_layers": len(kept)})


def cut_layers(model: Any, kept: Sequence[int]) -> Any:
    """The model with some of its own layers; embeddings, final norm and head stay as they are.

    Raises:
        UserError: a family whose layers lie elsewhere, or one where a layer at its new place would be of another kind
            than it was (dense for mixture-of-experts, say), so that the saved student would not load.
    """
    stack = _stack(model)
    config = cut_config(model.config, kept)
    with torch.device("meta"):
        places = type(model)(config).model.layers
    for index, place in zip(kept, places, strict=True):
        _move(stack[index], place, index)
    model.model.layers = torch.nn.ModuleList([stack[i] for i in kept])
    config._attn_implementation = model.config._attn_implementation
    model.config = model.model.config = config
    return model


def vocabulary(tokenizer: Any, model: Any) -> int:
    """How many of the model's embedding rows are real tokens; those from there on are padding, and nobody's."""
    rows: int = model.get_input_embeddings().num_embeddings
    return min(_largest(tokenizer) + 1, rows)


@torch.no_grad()
def require_plain_head(model: Any) -> None:
    """See that the model's logits are `lm_head(hidden)` and nothing else, as the fused loss takes for granted.

    Compared on hidden states that give large logits, not looked up: soft caps, scales and whatever comes next show.
    The model must not be partitioned yet.

    Raises:
        UserError: something is done between the two.
    """
    trunk, head = getattr(model, model.base_model_prefix, None), model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear) or trunk is None:
        raise UserError(f"{type(model).__name__} has no plain linear head: set `student.fused_head: false`")
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn((1, 2, head.in_features), generator=generator).to(head.weight)
    probe *= _PROBE_LOGIT / head(probe).float().std().clamp_min(1e-12)
    expected = head(probe).float()

    def replace(_: Any, __: Any, output: Any) -> Any:
        output.last_hidden_state = probe
        return output

    hook = trunk.register_forward_hook(replace)
    try:
        ids = torch.zeros((1, 2), dtype=torch.int64, device=head.weight.device)
        found = model(input_ids=ids, use_cache=False).logits.float()
    finally:
        hook.remove()
    if found.shape != expected.shape or (found - expected).abs().max() > 1e-3 * _PROBE_LOGIT:
        raise UserError(
            f"{type(model).__name__} does more between its hidden states and its logits than its head: set"
            " `student.fused_head: false`"
        )


def _stack(model: Any) -> Any:
    """The decoder's layers. Raises `UserError` where they are not at `model.model.layers`."""
    stack = getattr(getattr(model, "model", None), "layers", None)
    if not isinstance(stack, torch.nn.ModuleList):
        raise UserError(
            f"student.init: the layers of a {type(model).__name__} cannot be cut: use `kind: pretrained` or `fresh`"
        )
    return stack


def _move(layer: Any, place: Any, index: int) -> None:
    """Make a layer the one at `place`, a layer of the student's config without weights."""
    same = _is_quantized(layer) or _shapes(layer) == _shapes(place)
    for module, other in zip(layer.modules(), place.modules(), strict=True) if same else ():
        for key, value in vars(other).items():
            if key == "layer_idx":
                module.layer_idx = value  # the KV cache is addressed by it
            elif isinstance(value, bool | int | float | str) and key != "training" and not _is_quantized(layer):
                same = same and vars(module).get(key) == value
    if not same:
        raise UserError(
            f"student.init.layers: the teacher's layer {index} would be of another kind at its new place, as the config"
            " tells it: keep layers that are alike, or use `kind: pretrained`"
        )


def _shapes(layer: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in layer.state_dict().items()}


def _is_quantized(layer: torch.nn.Module) -> bool:
    return any(not parameter.is_floating_point() for parameter in layer.parameters())


def _grow(model: Any, tokenizer: Any, say: Callable[[str], None]) -> None:
    """Give every token of the tokenizer a row of the embedding; new rows are drawn around the mean of the others."""
    rows, needed = model.get_input_embeddings().num_embeddings, _largest(tokenizer) + 1
    if needed <= rows:
        return
    model.resize_token_embeddings(needed, mean_resizing=True)
    say(f"the student's embedding grows from {rows} to {needed} rows, which the tokenizer has; the new ones are drawn")


def _largest(tokenizer: Any) -> int:
    return max(tokenizer.get_vocab().values())


def _generation(model: Any, tokenizer: Any) -> GenerationConfig:
    """What ends and pads a completion. The teacher's sampling stays behind: the recipe says how the student answers."""
    given = model.generation_config
    ends = getattr(given, "eos_token_id", None)
    if ends is None:
        ends = tokenizer.eos_token_id
    pad = tokenizer.pad_token_id
    if pad is None:
        pad = ends[0] if isinstance(ends, list) else ends
    return GenerationConfig(bos_token_id=getattr(given, "bos_token_id", None), eos_token_id=ends, pad_token_id=pad)


def _config(model: str) -> Any:
    try:
        return AutoConfig.from_pretrained(resolve(model))
    except (OSError, ValueError) as error:
        raise UserError(f"the model {model} cannot be loaded: {str(error).splitlines()[0]}") from error


def _load(model: str, recipe: Recipe, dtype: torch.dtype, whole: bool) -> Any:
    lora = recipe.student.lora
    options = {} if whole or lora is None or lora.quantize is None else quantization()
    try:
        return AutoModelForCausalLM.from_pretrained(resolve(model), dtype=dtype, **options)
    except (OSError, ValueError) as error:
        raise UserError(f"the model {model} cannot be loaded: {str(error).splitlines()[0]}") from error
