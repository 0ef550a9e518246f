"""From what a token spells to its number, against the tokenizers' own decoding."""

from __future__ import annotations

from pathlib import Path

import pytest
from endpoint_parts import TEXTS, byte_level_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ray_jobs.capture.vocabulary import Vocabulary


def test_byte_level_tokens_spell_what_they_decode_to(tmp_path: Path) -> None:
    tokenizer = byte_level_tokenizer(tmp_path)
    tokenizer.add_tokens(["<tool_call>"])
    vocabulary = Vocabulary(tokenizer)
    for text in (*TEXTS, "tab\t, newline\n, \x00 and 🎬", " <tool_call> "):
        ids = tokenizer(text)["input_ids"]
        assert vocabulary.text(ids) == text.encode()
        assert [vocabulary.id_of(vocabulary.text([token])) for token in ids] == ids
    assert vocabulary.text([tokenizer.eos_token_id]) == b""
    with pytest.raises(LookupError):
        vocabulary.id_of("🎬".encode())
    with pytest.raises(LookupError):
        vocabulary.id_of(b"")


def sentencepiece(pieces: list[str]) -> PreTrainedTokenizerFast:
    """As Llama 2's: `▁` for a space, and single bytes for what no piece spells."""
    names = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    backend = Tokenizer(
        models.BPE(
            vocab={name: i for i, name in enumerate(names)},
            merges=[],
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")


def test_sentencepiece_tokens_spell_what_they_decode_to() -> None:
    tokenizer = sentencepiece(["▁", *"abcdefghijklmnopqrstuvwxyz"])
    vocabulary = Vocabulary(tokenizer)
    for text in (" a film", "größte"):
        ids = tokenizer(text)["input_ids"]
        assert vocabulary.text(ids).decode() == tokenizer.decode(ids) == text
        assert [vocabulary.id_of(vocabulary.text([token])) for token in ids] == ids
    assert vocabulary.name(vocabulary.id_of(b"a")) == "a"
    assert vocabulary.name(vocabulary.id_of(b"A")) == "<0x41>"


def test_a_spelling_of_two_tokens_names_neither() -> None:
    tokenizer = sentencepiece(["▁", "a"])
    tokenizer.add_tokens([" "])
    with pytest.raises(LookupError, match="2 tokens spell b' '"):
        Vocabulary(tokenizer).id_of(b" ")
