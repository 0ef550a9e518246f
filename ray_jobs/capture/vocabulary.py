"""From the bytes of a token to its id: an endpoint tells of tokens by what they spell, and the signal needs numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from transformers.convert_slow_tokenizer import bytes_to_unicode

from stillhouse.errors import UserError

_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


class Vocabulary:
    """What every token of a tokenizer spells.

    Byte-level vocabularies (GPT-2, Llama 3, Qwen) write each byte as a character of its own; SentencePiece ones
    (Llama 2, Mistral) write a space as `▁`, and single bytes as `<0x0A>`.
    """

    def __init__(self, tokenizer: Any) -> None:
        """Raises `UserError` for a tokenizer that does not tell how it spells."""
        if getattr(tokenizer, "backend_tokenizer", None) is None:
            raise UserError(
                f"the tokenizer {tokenizer.name_or_path!r} has no fast form, and an endpoint's tokens cannot be held"
                " against it: use `capture.mode: text`"
            )
        self.size = len(tokenizer)
        special = set(tokenizer.all_special_ids)
        added = {token_id: str(token) for token_id, token in tokenizer.added_tokens_decoder.items()}
        backend = json.loads(tokenizer.backend_tokenizer.to_str())
        byte_level = '"ByteLevel"' in json.dumps([backend.get("pre_tokenizer"), backend.get("decoder")])
        self._spelled: dict[int, bytes] = {}
        self._pieces: dict[int, str] = {}
        for piece, token_id in tokenizer.get_vocab().items():
            self._pieces[token_id] = piece
            if token_id in special:
                self._spelled[token_id] = b""  # it is no part of a completion's text
            elif token_id in added:
                self._spelled[token_id] = added[token_id].encode()
            else:
                self._spelled[token_id] = _from_byte_level(piece) if byte_level else _from_sentencepiece(piece)
        self._ids: dict[bytes, list[int]] = {}
        for token_id, spelled in sorted(self._spelled.items()):
            self._ids.setdefault(spelled, []).append(token_id)

    def name(self, token_id: int) -> str:
        """The token as the tokenizer writes it; empty for a number that is none of its tokens."""
        return self._pieces.get(token_id, "")

    def text(self, token_ids: Sequence[int]) -> bytes:
        """What some tokens spell together, special ones left out."""
        return b"".join(self._spelled.get(token_id, b"") for token_id in token_ids)

    def id_of(self, spelled: bytes) -> int:
        """The token that spells `spelled`.

        Raises:
            KeyError: no token does.
            LookupError: several do, so that nobody knows which one is meant.
        """
        found = self._ids[spelled] if spelled else []
        if len(found) > 1:
            # SentencePiece has every ASCII character twice; the single byte stands in where the character is missing.
            found = [token_id for token_id in found if not _BYTE_PIECE.fullmatch(self._pieces[token_id])] or found
        if len(found) != 1:
            raise LookupError(f"{len(found)} tokens spell {spelled!r}")
        return found[0]


_BYTES = {character: byte for byte, character in bytes_to_unicode().items()}


def _from_byte_level(piece: str) -> bytes:
    # A character outside the alphabet belongs to a token that was added as plain text.
    if all(character in _BYTES for character in piece):
        return bytes(_BYTES[character] for character in piece)
    return piece.encode()


def _from_sentencepiece(piece: str) -> bytes:
    if found := _BYTE_PIECE.fullmatch(piece):
        return bytes([int(found[1], 16)])
    return piece.replace("▁", " ").encode()
