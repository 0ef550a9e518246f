"""Whether a student reads token ids as the teacher wrote them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stillhouse.errors import UserError
from stillhouse.signal.alignment import require_same_tokens, template_hash, tokenizer_hash

MakeTokenizer = Callable[..., Any]


def test_equal_tokenizers(make_tokenizer: MakeTokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    teacher = make_tokenizer("a b c")
    teacher.save_pretrained(tmp_path)
    student = AutoTokenizer.from_pretrained(tmp_path)
    require_same_tokens(teacher, student)
    assert tokenizer_hash(teacher) == tokenizer_hash(student)


@pytest.mark.parametrize(
    ("student", "told"),
    [
        ("a c b", "the token 'b' is number 3 in the teacher and number 4 in the student"),
        ("a b d", "the token 'c' is number 4 in the teacher and absent in the student"),
        ("a b", "the token 'c' is number 4 in the teacher and absent in the student"),
        ("a b c d", "the token 'd' is absent in the teacher and number 5 in the student"),
    ],
)
def test_the_differing_token_is_named(make_tokenizer: MakeTokenizer, student: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        require_same_tokens(make_tokenizer("a b c"), make_tokenizer(student))
    assert told in str(caught.value)
    assert "`student.init.kind: teacher_layers`" in str(caught.value)


def test_another_end_of_sequence_is_named(make_tokenizer: MakeTokenizer) -> None:
    with pytest.raises(UserError, match="the student ends a sequence with token 2, the teacher with 0"):
        require_same_tokens(make_tokenizer("a b"), make_tokenizer("a b", eos="a"))


def test_hash_sees_how_text_becomes_tokens(make_tokenizer: MakeTokenizer) -> None:
    from tokenizers import normalizers

    plain, lower = make_tokenizer("a b"), make_tokenizer("a b")
    lower.backend_tokenizer.normalizer = normalizers.Lowercase()
    others = [make_tokenizer("b a"), make_tokenizer("a b", eos="a"), lower]
    assert len({tokenizer_hash(tokenizer) for tokenizer in (plain, *others)}) == 4
    assert tokenizer_hash(plain) == tokenizer_hash(make_tokenizer("a b"))


def test_template_hash(make_tokenizer: MakeTokenizer) -> None:
    hashes = {template_hash(make_tokenizer("a", template=template)) for template in (None, "{{ 1 }}", "{{ 2 }}")}
    assert len(hashes) == 3
