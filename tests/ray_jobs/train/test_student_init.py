"""The student before training: a cut of the teacher, a model of its own, or random weights; and what its head does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    Qwen2MoeConfig,
    Qwen3Config,
    SmolLM3Config,
)

from ray_jobs.train.student_init import (
    chosen_layers,
    cut_layers,
    make_student,
    require_plain_head,
    student_config,
    vocabulary,
)
from stillhouse.errors import UserError
from stillhouse.recipe import Recipe, StudentInit

WORDS = "good bad film plot the a yes no"
SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


def _model(config: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def _teacher(layers: int) -> Any:
    return _model(LlamaConfig(**SIZES, num_hidden_layers=layers, tie_word_embeddings=True))


@pytest.mark.parametrize(
    ("layers", "select", "kept"),
    [
        (1, "even", [0]),
        (2, "even", [0, 9]),
        (4, "even", [0, 3, 6, 9]),
        (10, "even", list(range(10))),
        (3, "every", [0, 3, 6]),
        (5, "every", [0, 2, 4, 6, 8]),
        (3, "first", [0, 1, 2]),
        (3, "last", [7, 8, 9]),
        (4, "ends", [0, 1, 8, 9]),
        (3, "ends", [0, 1, 9]),
        ((2, 5, 9), "even", [2, 5, 9]),
    ],
)
def test_the_kept_layers_are_the_teachers(layers: Any, select: Any, kept: list[int]) -> None:
    teacher = _teacher(10)
    weights = [layer.mlp.up_proj.weight.clone() for layer in teacher.model.layers]
    embedding = teacher.model.embed_tokens.weight.clone()

    assert chosen_layers(StudentInit(layers=layers, select=select), 10) == kept
    student = cut_layers(teacher, kept)

    assert student.config.num_hidden_layers == len(kept)
    for layer, original in zip(student.model.layers, kept, strict=True):
        assert torch.equal(layer.mlp.up_proj.weight, weights[original])
    assert torch.equal(student.lm_head.weight, embedding), "tied, as in the teacher"


@pytest.mark.parametrize(
    ("layers", "said"), [(7, "7 is more than the teacher's 6"), ((0, 6), "no layer 6: the teacher has 6, counted")]
)
def test_layers_that_the_teacher_does_not_have_are_refused(layers: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        chosen_layers(StudentInit(layers=layers), 6)


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        (LlamaConfig(**SIZES, num_hidden_layers=6), [0, 2, 5]),
        # A window of four tokens in every other layer: the wrong kind of a layer would change what it sees.
        (Gemma2Config(**SIZES, num_hidden_layers=6, head_dim=8, sliding_window=4), [0, 2, 3, 5]),
        (Qwen3Config(**SIZES, num_hidden_layers=6, head_dim=8, layer_types=["full_attention"] * 6), [1, 4]),
        # Every fourth layer has no rotary positions.
        (SmolLM3Config(**SIZES, num_hidden_layers=8, pad_token_id=0), [2, 3, 7]),
    ],
    ids=lambda value: value.model_type if hasattr(value, "model_type") else "",
)
def test_the_cut_generates_with_a_cache_as_without_and_loads_as_the_same_model(
    config: Any, kept: list[int], tmp_path: Path
) -> None:
    teacher = _model(config)
    ids = torch.randint(0, 64, (1, 12), generator=torch.Generator().manual_seed(0))
    hidden = _run_layers(teacher, ids, kept)

    student = cut_layers(teacher, kept).eval()
    with_cache = student.generate(ids, max_new_tokens=5, do_sample=False, use_cache=True)
    without = student.generate(ids, max_new_tokens=5, do_sample=False, use_cache=False)
    student.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)

    torch.testing.assert_close(student.model(input_ids=ids).last_hidden_state, hidden)
    assert with_cache.tolist() == without.tolist()
    torch.testing.assert_close(again(ids).logits, student(ids).logits)


def _run_layers(teacher: Any, ids: torch.Tensor, kept: list[int]) -> torch.Tensor:
    """The teacher's last hidden state when its other layers hand on what they are given."""
    skips = [
        layer.register_forward_hook(lambda _, args, __: args[0])
        for index, layer in enumerate(teacher.model.layers)
        if index not in kept
    ]
    hidden: torch.Tensor = teacher.model(input_ids=ids, use_cache=False).last_hidden_state
    for skip in skips:
        skip.remove()
    return hidden


def test_a_layer_that_would_be_of_another_kind_at_its_new_place_is_refused() -> None:
    # Layer 0 is dense, the others are mixtures: the config names the dense ones by their place.
    config = Qwen2MoeConfig(
        **SIZES,
        num_hidden_layers=4,
        mlp_only_layers=[0],
        num_experts=2,
        num_experts_per_tok=1,
        moe_intermediate_size=8,
        shared_expert_intermediate_size=8,
    )
    assert cut_layers(_model(config), [0, 3]).config.num_hidden_layers == 2
    with pytest.raises(UserError, match="layer 2 would be of another kind at its new place"):
        cut_layers(_model(config), [2, 3])


def test_a_family_whose_layers_lie_elsewhere_is_refused() -> None:
    model = _model(GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2))
    with pytest.raises(UserError, match="layers of a GPT2LMHeadModel cannot be cut: use `kind: pretrained`"):
        cut_layers(model, [0])


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, make_tokenizer: Callable[..., Any]) -> Path:
    """Four layers, ten words, and a vocabulary padded to 16."""
    folder = tmp_path_factory.mktemp("teacher")
    _model(
        LlamaConfig(**{**SIZES, "vocab_size": 16}, num_hidden_layers=4, eos_token_id=0, tie_word_embeddings=True)
    ).save_pretrained(folder)
    make_tokenizer(WORDS).save_pretrained(folder)
    return folder


@pytest.fixture
def make(teacher: Path, make_recipe: Callable[..., Recipe]) -> Callable[..., Recipe]:
    def make(init: dict[str, Any], **changes: Any) -> Recipe:
        return make_recipe({"teacher.model": str(teacher), "student.init": init, **changes})

    return make


def _silent(text: str) -> None:
    raise AssertionError(f"nothing was to be said: {text}")


def test_a_cut_teacher_keeps_its_padded_vocabulary(make: Callable[..., Recipe]) -> None:
    recipe = make({"kind": "teacher_layers", "layers": [1, 3]})
    model, tokenizer = make_student(recipe, say=_silent)
    assert model.config.num_hidden_layers == 2
    assert model.dtype == torch.float32
    assert model.get_input_embeddings().num_embeddings == 16
    assert vocabulary(tokenizer, model) == 10
    assert student_config(recipe).to_dict() == model.config.to_dict() | {"architectures": ["LlamaForCausalLM"]}


def test_a_fresh_student_is_drawn_from_the_seed_alone(make: Callable[..., Recipe], teacher: Path) -> None:
    init = {"kind": "fresh", "config": {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4}}
    one, tokenizer = make_student(make(init, seed=1), say=_silent)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    same, _ = make_student(make(init, seed=1), say=_silent)
    assert torch.equal(torch.rand(3), expected), "a training's own draws go on as before"
    other, _ = make_student(make(init, seed=2), say=_silent)

    assert len(one.model.layers) == 2
    assert one.model.layers[1].self_attn.q_proj.weight.shape == (32, 32), "heads of 8, as wide as the hidden size"
    assert one.config.num_key_value_heads == 4, "as many as heads, as in the teacher"
    assert one.config.eos_token_id == 0
    assert vocabulary(tokenizer, one) == one.lm_head.out_features == 10, "no row but for tokens, though the teacher has"
    for name, value in one.state_dict().items():
        assert torch.equal(value, same.state_dict()[name])
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"hidden_sise": 32}, r"config.hidden_sise: the teacher's config.json has no such key; did you mean `hidden_s"),
        ({"hidden_size": 33}, r"`hidden_size` \(33\) must be a multiple of `num_attention_heads` \(2\)"),
        ({"num_key_value_heads": 3}, r"`num_attention_heads` \(2\) must be a multiple of `num_key_value_heads` \(3\)"),
        ({"num_attention_heads": 0}, r"`num_attention_heads` \(0\)"),
        ({"head_dim": 7}, "config makes no llama model"),
        ({"hidden_act": "relux"}, "config makes no llama model: .*relux"),
        ({"num_hidden_layers": "four"}, "config makes no llama model: .*num_hidden_layers"),
        ({"model_type": "gemma2"}, "config.model_type: a fresh student has the teacher's architecture"),
    ],
)
def test_a_config_that_makes_no_model_is_refused(make: Callable[..., Recipe], config: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        make_student(make({"kind": "fresh", "config": config}), say=_silent)


def test_what_is_listed_for_each_layer_follows_a_fresh_depth(
    make_recipe: Callable[..., Recipe], make_tokenizer: Callable[..., Any], tmp_path: Path
) -> None:
    _model(Gemma2Config(**{**SIZES, "vocab_size": 16}, num_hidden_layers=4, head_dim=8)).save_pretrained(tmp_path)
    make_tokenizer(WORDS).save_pretrained(tmp_path)
    init = {"kind": "fresh", "config": {"num_hidden_layers": 3}}
    model, _ = make_student(make_recipe({"teacher.model": str(tmp_path), "student.init": init}), say=_silent)
    assert len(model.config.layer_types) == 3


def test_an_embedding_that_is_too_small_grows_and_says_so(
    make: Callable[..., Recipe], make_tokenizer: Callable[..., Any], tmp_path: Path
) -> None:
    small = _model(LlamaConfig(**{**SIZES, "vocab_size": 7}, num_hidden_layers=2, tie_word_embeddings=True))
    small.save_pretrained(tmp_path)
    make_tokenizer(WORDS).save_pretrained(tmp_path)
    said: list[str] = []
    recipe = make({"kind": "pretrained", "model": str(tmp_path)})

    model, tokenizer = make_student(recipe, say=said.append)
    again, _ = make_student(recipe, say=said.append)

    assert (
        said[0]
        == said[1]
        == ("the student's embedding grows from 7 to 10 rows, which the tokenizer has; the new ones are drawn")
    )
    assert model.config.vocab_size == vocabulary(tokenizer, model) == 10
    weight = model.get_output_embeddings().weight
    assert weight.shape == (10, 16)
    assert torch.equal(weight[:7], small.lm_head.weight)
    assert torch.equal(weight, again.get_output_embeddings().weight), "drawn alike by every worker"


def test_a_student_with_another_tokenizer_is_refused(
    make: Callable[..., Recipe], make_tokenizer: Callable[..., Any], tmp_path: Path
) -> None:
    _teacher(2).save_pretrained(tmp_path)
    make_tokenizer("bad good film").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="the token 'bad' is number 3 in the teacher and number 2"):
        make_student(make({"kind": "pretrained", "model": str(tmp_path)}), say=_silent)


@pytest.mark.parametrize("tied", [True, False])
def test_a_plain_head_passes_and_the_model_is_left_alone(tied: bool) -> None:
    model = _model(LlamaConfig(**SIZES, num_hidden_layers=2, tie_word_embeddings=tied))
    ids = torch.tensor([[1, 2, 3]])
    before = model(ids).logits
    require_plain_head(model)
    assert torch.equal(model(ids).logits, before)
    require_plain_head(_model(GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2)))


@pytest.mark.parametrize(
    "config",
    [
        Gemma2Config(**SIZES, num_hidden_layers=2, head_dim=8, final_logit_softcapping=30.0),
        CohereConfig(**SIZES, num_hidden_layers=2, logit_scale=0.0625, pad_token_id=0),
        GraniteConfig(**SIZES, num_hidden_layers=2, logits_scaling=8.0),
    ],
    ids=lambda config: str(config.model_type),
)
def test_a_model_that_bends_its_logits_is_refused(config: Any) -> None:
    with pytest.raises(UserError, match=r"ForCausalLM does more between .* set `student.fused_head: false`"):
        require_plain_head(_model(config))


def test_a_soft_cap_that_is_switched_off_is_plain() -> None:
    require_plain_head(_model(Gemma2Config(**SIZES, num_hidden_layers=2, head_dim=8, final_logit_softcapping=None)))
